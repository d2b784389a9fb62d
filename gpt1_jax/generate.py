"""Continues text: python -m gpt1_jax.generate --workdir=RUN --prompt=TEXT. Without --prompt: each line of input."""

import itertools
import json
import re
import sys
from typing import Any

from absl import flags

from gpt1_jax import signals
from gpt1_jax.arguments import STEP_HELP, check_step, check_text
from gpt1_jax.disk.inputs import standard_lines
from gpt1_jax.door import door
from gpt1_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "the run directory")
_STEP = flags.DEFINE_string("step", None, STEP_HELP)
_PROMPT = flags.DEFINE_string("prompt", None, "the text to continue; without it each line of standard input")
_JSON = flags.DEFINE_bool("json", False, "prints an object for each prompt, with tokens and probabilities")
_STOP = flags.DEFINE_list("stop", [], "token ids that end a sample, or `end` for the tokenizer's end piece")
_SETTINGS = {
    "max_new_tokens": flags.DEFINE_integer("max_new_tokens", 64, "the most new tokens of each sample"),
    "temperature": flags.DEFINE_float("temperature", 1.0, "0 takes the most probable token"),
    "top_k": flags.DEFINE_integer("top_k", 0, "draws from this many most probable tokens; 0 draws from all"),
    "top_p": flags.DEFINE_float(
        "top_p", 1.0, "draws from the most probable tokens that together have this probability"
    ),
    "repetition_penalty": flags.DEFINE_float("repetition_penalty", 1.0, "above 1, discourages repetition"),
    "num_beams": flags.DEFINE_integer("num_beams", 1, "above 1, searches with this many beams"),
    "length_penalty": flags.DEFINE_float(
        "length_penalty", 1.0, "for beams: the power of the length that divides a score"
    ),
    "num_samples": flags.DEFINE_integer("num_samples", 1, "the number of samples of each prompt"),
    "seed": flags.DEFINE_integer("seed", 0, "the same seed gives the same samples"),
    "beyond_context": flags.DEFINE_enum(
        "beyond_context",
        "stop",
        ["stop", "slide", "refuse"],
        "what to do at the end of the learned positions",
    ),
}


def main(_: list[str]) -> None:
    """Prints each prompt and its continuation as it is written; several samples follow one another."""
    if _WORKDIR.value is None:
        raise UserError("--workdir is missing; name the run directory whose model is to write.")

    step = check_step(_STEP.value, "--step")
    if _PROMPT.value is not None:
        check_text(_PROMPT.value, "--prompt")

    # jax and the rest are imported only when the input is known to be right.
    from gpt1_jax import load

    run = load(_WORKDIR.value, step)
    settings = {name: flag.value for name, flag in _SETTINGS.items()} | {"stop": _stops(run)}
    if _PROMPT.value is not None:
        _continue(run, _PROMPT.value, settings)
        return
    talking = sys.stdin is not None and sys.stdin.isatty()
    if talking:
        print("write the beginning of a text, and Enter; Ctrl-D ends", file=sys.stderr)
    lines = standard_lines()
    for number in itertools.count():
        print("> " if talking else "", end="", flush=True)
        line = next(lines, None)
        if line is None:
            return
        try:
            _continue(run, line.removesuffix("\r"), settings | {"number": number})
        # A person at the terminal may try again.
        except UserError as error:
            if not talking:
                raise UserError(f"Line {number + 1} of standard input: {error}") from error
            print(f"error: {error}", file=sys.stderr)


def _continue(run: Any, prompt: str, settings: dict[str, Any]) -> None:
    if _JSON.value:
        print(json.dumps(run.generate(prompt, **settings)), flush=True)
        return
    if settings["num_samples"] > 1 or settings["num_beams"] > 1:
        for sample in run.generate(prompt, **settings)["samples"]:
            print(prompt + sample["text"], end="\n\n", flush=True)
        return
    written = ""

    def write(texts: list[str]) -> None:
        nonlocal written
        signals.check()
        text = prompt + texts[0]
        print(text.removeprefix(written), end="", flush=True)
        written = text

    final = prompt + run.generate(prompt, watch=write, **settings)["samples"][0]["text"]
    print(final.removeprefix(written))


def _stops(run: Any) -> tuple[int, ...]:
    found, pieces = [], run.tokenizer.vocab_size
    for stop in _STOP.value:
        if stop == "end" and run.tokenizer.end_id is None:
            raise UserError("--stop=end needs a tokenizer with an end piece; name a token's id.")
        if stop != "end" and not (re.fullmatch("[0-9]{1,18}", stop) and int(stop) < pieces):
            raise UserError(
                f"--stop={stop:.60} is not a token; name ids from 0 to {pieces - 1}, such as 5,17, or end."
            )
        found.append(run.tokenizer.end_id if stop == "end" else int(stop))
    return tuple(found)


if __name__ == "__main__":
    door(main)
