"""Sides with a process each, as users run them: in one, they would slow each other down by what they leave in memory.

The command starts itself again for each side, with the flag --serve. Such a process says what it knows when it is
ready, and then does the work of a round for each line it reads.

    sides = {name: Apart("benchmarks.training", name) for name in ("gpt1_jax", "torch")}
    rows = measure(sides, rounds=7)
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from absl import flags

from gpt1_jax.errors import Fault

# Begins the lines that are meant for the command; libraries print others.
_MARK = "side: "

SERVE = flags.DEFINE_string("serve", None, "be the process of this side, for the command itself")


class Apart:
    """A side in a process of its own; a call has it do the work of a round.

    Attributes:
        ready: what the process said when it was ready.
    """

    def __init__(self, module: str, name: str, *arguments: str) -> None:
        """Starts the process with the command's own flags and a few more.

        Raises:
            Fault: it ended.
        """
        command = [sys.executable, "-m", module, *sys.argv[1:], *arguments, f"--serve={name}"]
        self._name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.ready: Any = json.loads(self._answer())

    def __call__(self) -> None:
        """Waits until the work is done.

        Raises:
            Fault: the process ended.
        """
        with contextlib.suppress(BrokenPipeError):
            print(file=self._process.stdin)
        self._answer()

    def __enter__(self) -> "Apart":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return line.removeprefix(_MARK)
        raise Fault(f"The process of {self._name} ended with {self._process.wait()}.")


def serve(ready: Any, work: Callable[[], object]) -> None:
    """Is the process of a side: says that it is ready, and works whenever a line asks for it."""
    print(_MARK + json.dumps(ready), flush=True)
    for _ in sys.stdin:
        work()
        print(_MARK, flush=True)


def compare_losses(losses: dict[str, list[float]], tolerance: float) -> None:
    """Prints the losses that sides have in their first steps without dropout.

    Raises:
        Fault: they differ by more than the tolerance, relative to the first side's.
    """
    first = next(iter(losses))
    for name, found in losses.items():
        print(f"{name:22} without dropout: loss {', '.join(f'{loss:.4f}' for loss in found)}", flush=True)
        if not np.allclose(found, losses[first], rtol=tolerance, atol=0):
            raise Fault(
                f"The sides {first} and {name} have different losses, so they are not the same model."
            )
