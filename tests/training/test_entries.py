"""The log of a run that goes on: sound lines stay, damaged ones are reported, and results come from it again."""

import json
from pathlib import Path

import pytest
from etils import epath

from gpt1_jax.training.entries import make_results, read_entries


def line(step: int, kind: str = "train", **values: float | None) -> str:
    return json.dumps({"step": step, "kind": kind, **values})


LINES = [line(step, loss=9.0 - step) for step in range(1, 7)]


def write(directory: Path, lines: list[str | bytes]) -> epath.Path:
    (directory / "metrics.jsonl").write_bytes(
        b"".join((x.encode() if isinstance(x, str) else x) + b"\n" for x in lines)
    )
    return epath.Path(directory) / "metrics.jsonl"


def test_entries_up_to_the_step_stay_and_later_ones_go(tmp_path: Path) -> None:
    entries, damaged = read_entries(write(tmp_path, [*LINES]), 4)
    assert [entry.line for entry in entries] == LINES[:4] and damaged == []


def test_no_log_is_none(tmp_path: Path) -> None:
    assert read_entries(epath.Path(tmp_path) / "metrics.jsonl", 4) == ([], [])


@pytest.mark.parametrize(
    "bad",
    [
        b"\0" * 40,
        b"{",
        b"[1]",
        b"\xff",
        b'{"step": "3"}',
        b'{"step": 3}',
        b"[" * 100_000,
        b'{"step": 900, "kind": "train"}',
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_a_damaged_line_is_told_by_its_number_and_no_other_is_lost(
    tmp_path: Path, bad: bytes, place: int
) -> None:
    lines: list[str | bytes] = [*LINES[:place], bad, *LINES[place:]]
    entries, damaged = read_entries(write(tmp_path, lines), 4)
    assert [entry.line for entry in entries] == LINES[:4] and damaged == [place + 1]


def test_the_cut_last_line_of_a_crash_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, [*LINES[:3]])
    path.write_bytes(path.read_bytes() + LINES[3][:9].encode())
    entries, damaged = read_entries(path, 4)
    assert [entry.line for entry in entries] == LINES[:3] and damaged == [4]


@pytest.mark.parametrize(("score", "best"), [("loss", 4), ("accuracy", 2)])
def test_results_are_made_again_from_the_log(tmp_path: Path, score: str, best: int) -> None:
    evaluations = {2: (2.0, 0.9), 4: (1.0, 0.8), 6: (3.0, 0.7)}
    logged = [line(step, "eval", loss=loss, accuracy=right) for step, (loss, right) in evaluations.items()]
    entries, _ = read_entries(write(tmp_path, [*LINES, *logged]), 6)
    loss, right = evaluations[best]
    assert make_results(entries, score) == {
        "step": 6,
        "validation": {"loss": 3.0, "accuracy": 0.7},
        "best": {"step": best, "loss": loss, "accuracy": right},
    }


def test_without_evaluations_there_are_no_results(tmp_path: Path) -> None:
    entries, _ = read_entries(write(tmp_path, [*LINES]), 6)
    assert make_results(entries, "loss") == {}
