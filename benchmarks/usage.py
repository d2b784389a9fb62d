"""What a finished model is asked for, beside transformers: python -m benchmarks.usage [--preset=tiny].

It needs torch and transformers. Both sides have the same random weights in float32, the same pieces and texts of the
demo, and a process each; they give the same numbers, which is checked first. Texts go in and answers come out, so
tokenizing is part of it. transformers reads batches of 32, sorted by length, and for `predict` also as they come.
Prompts of generation are ids: of mixed lengths, padded on the left, with a GPT-2, since transformers' GPT-1 has no
cache; samples end at different lengths by stops.
"""

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.apart import SERVE, Apart, serve
from benchmarks.peers import check_devices
from benchmarks.settings import find_preset
from benchmarks.timing import conclude, measure
from benchmarks.uses import USES, Setting
from gpt1_jax.config import Config
from gpt1_jax.door import door
from gpt1_jax.errors import Fault, UserError
from gpt1_jax.huge_pages import use_huge_pages

_PRESET = flags.DEFINE_string(
    "preset", "tiny", "a preset of configs/pretrain.py with a GPT-1; '' is the paper's"
)
_USES = flags.DEFINE_list("uses", ["predict", "evaluate", "score", "generate"], "what is compared")
_TEXTS = flags.DEFINE_integer("texts", 3000, "pairs for predict; half as many texts for score", 64)
_PROMPTS = flags.DEFINE_integer("prompts", 64, "prompts to continue", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds of timing", 1)
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 0, "pieces trained; by default the preset's", 0)
_CACHE_DIR = flags.DEFINE_string("cache_dir", "~/.cache/gpt1_jax", "the directory of the tokenized demo text")

_TOLERANCE = 1e-4


def main(_: list[str]) -> None:
    """Prints lines for each use, then the same in JSON.

    Raises:
        UserError: --uses names something else.
        Fault: the sides give different answers.
    """
    if unknown := set(_USES.value) - set(USES):
        raise UserError(f"--uses={unknown.pop()} is not compared; choose of {', '.join(USES)}.")
    whole = find_preset(_PRESET.value)
    model = dataclasses.replace(whole.model, dtype="float32")
    pieces = _VOCAB_SIZE.value or whole.data.vocab_size
    data = dataclasses.replace(whole.data, source="demo", vocab_size=pieces, cache_dir=_CACHE_DIR.value or "")
    config = dataclasses.replace(whole, model=model, data=data)
    if SERVE.value is not None:
        check_devices()
        use_name, side = SERVE.value.split("/")
        _serve(use_name, side, config)
        return
    facts = [row for use_name in _USES.value for row in _compare(use_name)]
    conclude(preset=_PRESET.value, texts=_TEXTS.value, prompts=_PROMPTS.value, rows=facts)


def _compare(use_name: str) -> list[dict[str, Any]]:
    """Checks that all sides of a use answer alike; prints a line for each, and returns the same."""
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(Apart("benchmarks.usage", f"{use_name}/{name}"))
            for name in USES[use_name]
        }
        first = sides["gpt1_jax"].ready
        for name, side in sides.items():
            for one, other in zip(side.ready["answers"], first["answers"], strict=True):
                if not _alike(one, other):
                    raise Fault(
                        f"{use_name}: {name} gives {one}, and gpt1_jax {other}; the sides are not the same."
                    )
        rows = measure(sides, _ROUNDS.value, first["work"], first["unit"])
    for row in rows:
        print(f"{use_name:9} {row}", flush=True)
    return [{"use": use_name, **dataclasses.asdict(row)} for row in rows]


def _alike(one: Any, other: Any) -> bool:
    return np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE)


def _serve(use_name: str, side: str, config: Config) -> None:
    """Is the process of a side, which is ready with its answers."""
    with tempfile.TemporaryDirectory() as directory:
        setting = Setting(config, Path(directory), _TEXTS.value, _PROMPTS.value)
        work = USES[use_name][side](setting)
        answers = [np.asarray(answer).tolist() for answer in work.do()]
        serve({"answers": answers, "work": work.amount, "unit": work.unit}, work.do)


if __name__ == "__main__":
    use_huge_pages()
    door(main)
