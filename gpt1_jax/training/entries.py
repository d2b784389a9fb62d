"""Reads metrics.jsonl when a run is resumed: the sound lines of a file that a crash may have damaged."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from gpt1_jax.devices.hosts import tell
from gpt1_jax.run import Run
from gpt1_jax.training.stage import Stage


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
