"""Scores texts, a line each: python -m gpt1_jax.score --workdir=RUN [--input=FILE] [--output=FILE] [--top=N]."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from absl import flags
from etils import epath

from gpt1_jax.arguments import STEP_HELP, check_step
from gpt1_jax.disk.inputs import is_packed, open_input, standard_input
from gpt1_jax.disk.paths import expand
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.usage.prediction_files import open_output, write_answers
from gpt1_jax.usage.score_files import read_requests

_WORKDIR = flags.DEFINE_string("workdir", None, "the run directory")
_STEP = flags.DEFINE_string("step", None, STEP_HELP)
_INPUT = flags.DEFINE_string(
    "input",
    None,
    'a text a line, or a JSON object a line, with a "text" or with a "context" and its "continuation"; by default '
    "standard input",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "the .jsonl file to write, a line per line of input in order; by default standard output"
)
_TOP = flags.DEFINE_integer("top", 0, "how many alternatives to tell in the place of each token")
_STRIDE = flags.DEFINE_integer(
    "stride",
    None,
    "how many tokens apart the windows begin in which a text longer than the context is read; by default half the "
    "context, so that each token comes after half a context or more",
)


def main(_: list[str]) -> None:
    """Prints a JSON object for each line of input, while further lines are still read."""
    if _WORKDIR.value is None:
        raise UserError("--workdir is missing; name the run directory whose model is to score.")
    step = check_step(_STEP.value, "--step")
    source = None if _INPUT.value is None else expand(_INPUT.value, "--input")
    # Standard input may be a file too.
    output = None if _OUTPUT.value is None else open_output(_OUTPUT.value, source or "/dev/stdin")
    with _opened(source) as (file, name):
        # jax and the rest are imported only when the input is known to be right.
        from gpt1_jax import load
        from gpt1_jax.usage.scores import Scorer

        scorer = Scorer(load(_WORKDIR.value, step), _TOP.value or 0, _STRIDE.value)
        requests = read_requests(file, name)
        # A person at the terminal waits for each answer.
        talking = source is None and file.isatty()
        found = (
            (score for request in requests for score in scorer([request])) if talking else scorer(requests)
        )
        if output is None:
            for score in found:
                print(json.dumps(score), flush=True)
            return
        from gpt1_jax.usage.bar import bar

        size = None if source is None else _plain_size(source)
        with bar("scoring") as watch:
            write_answers(output, found if size is None else _watched(found, file, size, watch))


def _plain_size(source: epath.Path) -> int | None:
    """Returns the bytes of a file; None of a pipe, a packed or a remote one, of which nobody knows how much comes."""
    local = "://" not in str(source) and Path(source).is_file()
    return Path(source).stat().st_size if local and not is_packed(source, "--input") else None


def _watched(
    scores: Iterator[Any], file: IO[bytes], size: int, watch: Callable[[int, int], None]
) -> Iterator[Any]:
    """Yields the same, and tells how much of the file has been read."""
    for score in scores:
        yield score
        watch(file.tell(), size)


@contextlib.contextmanager
def _opened(source: epath.Path | None) -> Iterator[tuple[IO[bytes], str]]:
    """Opens the input, and says what it is called in errors."""
    if source is None:
        yield standard_input(), "standard input"
        return
    with open_input(source, "--input", pipe=True) as file:
        yield file, f"--input={source}"


if __name__ == "__main__":
    door(main)
