"""RUN/checksums.jsonl: the checksums of every checkpoint that a run has ever saved, also of those removed since.

With it others can verify a checkpoint that is published, and steps that are done again can be compared with what they
led to at first.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from etils import epath

from gpt1_jax.training.checksums import seal, unseal
from gpt1_jax.training.damage import Damaged

NAME = "checksums.jsonl"


# The mark of a line that sets those of its step before it aside.
_ASIDE = "set_aside"


def enter(directory: epath.Path, step: int, sums: dict[str, int]) -> None:
    """Adds a checkpoint to a run's ledger: a line with its step, its checksums, and a checksum of these."""
    _append(directory, {"step": step, **seal(sums)})


def mend(directory: epath.Path, steps: Sequence[int], sums: Callable[[int], dict[str, int]]) -> None:
    """Enters checkpoints that the ledger does not have as they are: a crash may come between the two.

    Args:
        directory: the run directory.
        steps: the checkpoints.
        sums: step → the checksums that the checkpoint itself keeps.
    """
    known = read(directory)
    for step in steps:
        with suppress(Damaged):
            if known.get(step) != (kept := sums(step)):
                enter(directory, step, kept)


def set_aside(directory: epath.Path, step: int) -> None:
    """Notes that a training went back to a step, so that its checkpoints behind it are of no use to anybody."""
    for later in sorted(other for other in read(directory) if other > step):
        _append(directory, {"step": later, _ASIDE: f"the training diverged and went back to step {step}"})


def _append(directory: epath.Path, entry: dict[str, Any]) -> None:
    line = json.dumps(entry) + "\n"
    path = directory / NAME
    if "://" in str(path):
        # Files of a bucket cannot grow.
        path.write_text((path.read_text() if path.exists() else "") + line)
        return
    with Path(path).open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            # A crash may have torn the last line.
            line = line if file.read() == b"\n" else f"\n{line}"
        file.write(line.encode())


def read(directory: epath.Path) -> dict[int, dict[str, int]]:
    """Returns the checksums of each step in a run's ledger; of a step that was saved twice, the later ones.

    Those that were set aside since are left out.
    """
    path = directory / NAME
    found: dict[int, dict[str, int]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            entry: Any = json.loads(line)
            if _ASIDE in entry:
                found.pop(int(entry["step"]), None)
            else:
                found[int(entry["step"])] = unseal(entry)
        # A line that a crash has torn, or a disk has changed, says nothing.
        except (ValueError, TypeError, KeyError):
            continue
    return found
