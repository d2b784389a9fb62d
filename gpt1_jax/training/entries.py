"""Reads metrics.jsonl when a run is resumed: the sound lines of a file that a crash may have damaged."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from gpt1_jax.devices.hosts import tell
from gpt1_jax.run import Run
from gpt1_jax.training.stage import Stage

# So much of the end of a log is looked at first, which are some thousand entries.
_END = 2**20


class Entry(NamedTuple):
    """A line of the log, and what it holds: "step", "kind" and numbers."""

    line: str
    values: dict[str, Any]


def read_entries(path: epath.Path, step: int) -> tuple[list[Entry], list[int]]:
    """Returns the entries up to a step, in order, and the numbers of damaged lines.

    Entries after the last one of that step were written before a crash and will be written again, so they are left
    out. A line before it that has a later step is damaged, and left out too.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    found = [(number, _parse(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    end = max(
        (i for i, (_, entry) in enumerate(found, 1) if entry and entry.values["step"] <= step), default=0
    )
    sound, damaged = [], []
    for number, entry in found[:end]:
        if entry and entry.values["step"] <= step:
            sound.append(entry)
        else:
            damaged.append(number)
    return sound, damaged + [number for number, entry in found[end:] if entry is None]


def read_end(path: epath.Path) -> list[tuple[int, Entry | None]]:
    """Returns the last entries of a log, each with the number of the byte behind its line; None is a damaged line.

    However long the log is, this takes the same time.
    """
    try:
        with path.open("rb") as file:
            at = max(file.seek(0, 2) - _END, 0)
            file.seek(at)
            first, *others = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    # The first line may lack its beginning.
    found = [] if at else [(len(first) + 1, first)]
    at += len(first) + 1
    for line in others:
        at += len(line) + 1
        found.append((at, line))
    return [(end, _parse(line)) for end, line in found if line.strip()]


def cut_behind(path: Path, wanted: Callable[[Entry], bool]) -> bool:
    """Cuts a log behind the last entry that is wanted, if a look at its end shows that this leaves what it should.

    Returns:
        Whether it did so. Otherwise nothing has changed: entries among the last are damaged or not wanted, or the file
        has another name too, under which it may be somebody's copy.
    """
    end = read_end(epath.Path(path))
    last = max((i for i, (_, entry) in enumerate(end) if entry and wanted(entry)), default=None)
    if last is None or not all(entry and (i > last or wanted(entry)) for i, (_, entry) in enumerate(end)):
        return False
    found = path.lstat()
    if found.st_nlink > 1 or path.is_symlink() or end[last][0] > found.st_size:
        return False
    os.truncate(path, end[last][0])
    return True


def make_results(entries: Sequence[Entry], score: str) -> dict[str, Any]:
    """Returns the content of results.json, the last and the best evaluation, from the log; nothing if there is none.

    Args:
        entries: the log.
        score: the metric that decides which evaluation is the best: a loss, or one where higher is better.
    """
    found = [
        {name: value for name, value in entry.values.items() if name != "kind"}
        for entry in entries
        if entry.values["kind"] == "eval"
    ]
    if not found:
        return {}
    sign = 1 if score == "loss" else -1
    scored = [values for values in found if isinstance(values.get(score), int | float)]
    best = min(scored or found[-1:], key=lambda values: sign * (values.get(score) or 0))
    last = {name: value for name, value in found[-1].items() if name != "step"}
    return {"step": found[-1]["step"], "validation": last, "best": best}


def mend_results(run: Run, stage: Stage, step: int) -> None:
    """Rebuilds results.json from the log, up to a step, if it is damaged or missing."""
    if run.results():
        return
    entries, _ = read_entries(run.directory / "metrics.jsonl", step)
    about = {"kind": stage.kind, "task": stage.task}
    if stage.positive_label is not None:
        about["positive_label"] = stage.positive_label
    found = make_results(entries, stage.score)
    if found:
        run.write_results(about | found)
    path = run.directory / "results.json"
    if found or path.exists():
        made = "it is made again from the log" if found else "the next evaluation makes it again"
        tell(f"{path} was missing or damaged; {made}")


def _parse(line: bytes) -> Entry | None:
    try:
        text = line.decode()
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(values, dict)
        or type(values.get("step")) is not int
        or not isinstance(values.get("kind"), str)
    ):
        return None
    return Entry(text, values)
