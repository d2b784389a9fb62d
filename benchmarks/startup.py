"""How soon training begins, and when unrolled layers have made up for it: python -m benchmarks.startup [--preset=tiny].

It starts the training command as a user does, once with nothing compiled and once with everything compiled before, and
ends it after its first step. Then it times steps with each `model.unroll` side by side. The text is tokenized
beforehand. Rounds are interleaved, after one that warms up; the figures are medians and ranges.
"""

import dataclasses
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.ours import Training
from benchmarks.settings import find_preset
from benchmarks.timing import Spread, conclude, measure
from gpt1_jax.config import Config
from gpt1_jax.data import corpus as corpora
from gpt1_jax.door import door
from gpt1_jax.errors import Fault

_PRESET = flags.DEFINE_string("preset", "", "a preset of configs/pretrain.py; by default the paper's")
_SOURCE = flags.DEFINE_string("source", "demo", "the text, as data.source of a config")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 0, "pieces trained; by default the preset's", 0)
_BATCH = flags.DEFINE_integer(
    "batch", 0, "rows a batch; by default the preset's, and 2 for the paper's model", 0
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "as model.dtype of a config")
_UNROLL = flags.DEFINE_multi_integer(
    "unroll", [0, 1], "values of model.unroll, the first against the others", 0
)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "rounds of starts and of steps", 1)

_ROOT = Path(__file__).parents[1]
_PHASES = {  # each ends with a line of the command that holds this
    "imports": "reusing the tokens",
    "plan": " parameters, ",
    "state and compiling": "compiled for ",
    "first step": "step 1/",
}
_IMPORTS = {
    "gpt1_jax.main": "import gpt1_jax.main, gpt1_jax.training.pretraining",
    "its libraries": "import jax, flax.linen, optax, sentencepiece, tensorboardX; from orbax.checkpoint import v1",
    "jax alone": "import jax",
}


def main(_: list[str]) -> None:
    """Prints a line for each side, then the same in JSON."""
    config = _settings()
    imports = _measure_imports()
    with tempfile.TemporaryDirectory() as place:
        starts = _measure_starts(config, Path(place))
    steps = _measure_steps(config)
    ahead = _compare(starts, steps)
    facts = {"preset": _PRESET.value, "batch": config.train.batch_size, "source": _SOURCE.value}
    conclude(**facts, imports=imports, starts=starts, steps=steps, ahead_after_steps=ahead)


def _settings() -> Config:
    """Returns the preset with the flags' values. It leaves the devices alone, which the command may need for itself."""
    config = find_preset(_PRESET.value)
    batch = _BATCH.value or (config.train.batch_size if _PRESET.value else 2)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dtype=_DTYPE.value),
        data=dataclasses.replace(
            config.data, source=_SOURCE.value, vocab_size=_VOCAB_SIZE.value or config.data.vocab_size
        ),
        train=dataclasses.replace(config.train, batch_size=batch),
    )


# ── Imports ──────────────────────────────────────────────────────────────────────────────────────────────────


def _measure_imports() -> list[dict[str, Any]]:
    def load(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=True)

    rows = measure({name: lambda code=code: load(code) for name, code in _IMPORTS.items()}, _ROUNDS.value)
    for row in rows:
        print(f"import of {row.side:16} {_seconds(row.seconds)}", flush=True)
    return [dataclasses.asdict(row) for row in rows]


# ── Starts ───────────────────────────────────────────────────────────────────────────────────────────────────


def _measure_starts(config: Config, place: Path) -> list[dict[str, Any]]:
    """Measures the seconds to the first step; each unrolling has a cache of its own, which cold starts empty."""
    tokens = place / "tokens"
    corpora.prepare(dataclasses.replace(config.data, cache_dir=str(tokens)))
    phases: dict[str, list[dict[str, float]]] = {}

    def side(name: str, unroll: int, cold: bool) -> Callable[[], None]:
        cache, found = place / f"unroll-{unroll}", phases.setdefault(name, [])

        def start() -> None:
            if cold:
                shutil.rmtree(cache / "compiled", ignore_errors=True)
            found.append(dict(_start(config, unroll, cache, place / "run")))

        return start

    sides = {}
    for unroll in _UNROLL.value:
        shutil.copytree(tokens, place / f"unroll-{unroll}")
        for cold in (True, False):
            name = f"unroll {unroll}, {'cold' if cold else 'warm'}"
            sides[name] = side(name, unroll, cold)
    facts = []
    for row in measure(sides, _ROUNDS.value):
        spreads = {name: Spread.of(found[name] for found in phases[row.side][1:]) for name in _PHASES}
        told = ", ".join(f"{name} {spread.median:.2f}" for name, spread in spreads.items())
        print(f"{row.side:16} {_seconds(row.seconds)}: {told}", flush=True)
        named = {name: dataclasses.asdict(spread) for name, spread in spreads.items()}
        facts.append(dataclasses.asdict(row) | {"phases": named})
    return facts


def _start(config: Config, unroll: int, cache: Path, workdir: Path) -> Iterator[tuple[str, float]]:
    """Starts the command, ends it after its first step, and yields the seconds of each phase until then."""
    settings = {
        "model.unroll": unroll,
        "model.dtype": config.model.dtype,
        "data.source": config.data.source,
        "data.vocab_size": config.data.vocab_size,
        "data.cache_dir": cache,
        "train.batch_size": config.train.batch_size,
    }
    command = [
        *(sys.executable, "-m", "gpt1_jax.main", f"--config={_ROOT}/configs/pretrain.py:{_PRESET.value}"),
        *(f"--workdir={workdir}", *(f"--config.{key}={value}" for key, value in settings.items())),
    ]
    ends = [time.perf_counter()]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        for mark in _PHASES.values():
            if not any(mark in line for line in process.stdout):
                errors.seek(0)
                raise Fault(f"{' '.join(command)} ended without its first step: {errors.read()[-1000:]}")
            ends.append(time.perf_counter())
        process.kill()
        process.communicate()
    shutil.rmtree(workdir)
    for name, (began, ended) in zip(_PHASES, pairwise(ends), strict=True):
        yield name, ended - began


# ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────


def _measure_steps(config: Config) -> list[dict[str, Any]]:
    """Measures tokens a second of each unrolling."""
    shape = (config.train.batch_size, config.model.context_length)
    tokens = np.random.default_rng(0).integers(0, config.data.vocab_size, shape)

    def side(unroll: int) -> Callable[[], float]:
        model = dataclasses.replace(config.model, unroll=unroll)
        trainer = Training(dataclasses.replace(config, model=model))
        return lambda: trainer(tokens, tokens)

    sides = {f"unroll {unroll}": side(unroll) for unroll in _UNROLL.value}
    rows = measure(sides, _ROUNDS.value, tokens.size, "tokens")
    for row in rows:
        print(row, flush=True)
    return [dataclasses.asdict(row) for row in rows]


def _compare(starts: list[dict[str, Any]], steps: list[dict[str, Any]]) -> dict[str, float | None]:
    """Returns after how many steps the first unrolling has made up for its start, by medians; None means never."""
    waits = {fact["side"]: fact["seconds"]["median"] for fact in starts}
    speeds = {fact["side"]: fact["seconds"]["median"] for fact in steps}
    first, *others = speeds
    found: dict[str, float | None] = {}
    for other in others:
        for kind in ("cold", "warm"):
            later, saved = (
                waits[f"{first}, {kind}"] - waits[f"{other}, {kind}"],
                speeds[other] - speeds[first],
            )
            found[f"{other}, {kind}"] = max(later, 0) / saved if saved > 0 else None
            told = f"ahead after {max(later, 0) / saved:,.0f} steps" if saved > 0 else "never ahead"
            print(
                f"{first} starts {later:.2f} s later than {other}, {kind}, and saves {saved:.3f} s a step: {told}"
            )
    return found


def _seconds(spread: Spread) -> str:
    return f"{spread.median:.2f} s ({spread.low:.2f} to {spread.high:.2f})"


if __name__ == "__main__":
    door(main)
