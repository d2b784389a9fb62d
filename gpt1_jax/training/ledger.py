"""RUN/checksums.jsonl: the checksums of every checkpoint that a run has ever saved, also of those removed since.

With it others can verify a checkpoint that is published, and steps that are done again can be compared with what they
led to at first.
"""

import json
from pathlib import Path
from typing import Any

from etils import epath

from gpt1_jax.training.checksums import seal, unseal

NAME = "checksums.jsonl"


def enter(directory: epath.Path, step: int, sums: dict[str, int]) -> None:
    """Adds a checkpoint to a run's ledger: a line with its step, its checksums, and a checksum of these."""
    line = json.dumps({"step": step, **seal(sums)}) + "\n"
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
    """Returns the checksums of each step in a run's ledger; of a step that was saved twice, the later ones."""
    path = directory / NAME
    found: dict[int, dict[str, int]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            entry: Any = json.loads(line)
            found[int(entry["step"])] = unseal(entry)
        # A line that a crash has torn, or a disk has changed, says nothing.
        except (ValueError, TypeError, KeyError):
            continue
    return found
