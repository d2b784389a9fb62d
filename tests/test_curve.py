"""The picture of a learning curve."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_support import ROOT

from benchmarks.curve import draw

LOG = [
    {"step": 1, "kind": "train", "loss": 6.0},
    {"step": 9, "kind": "train", "loss": 4.0},
    {"step": 9, "kind": "eval", "loss": 5.0, "bits_per_byte": 2.0},
]


def test_losses_are_drawn_in_bits_a_byte() -> None:
    axes: Any = draw(LOG, {"trigram": 1.5}).axes[0]
    train, held_out, beside = axes.get_lines()
    assert train.get_xydata().tolist() == [[1, pytest.approx(2.4)], [9, pytest.approx(1.6)]]
    assert held_out.get_xydata().tolist() == [[9, 2.0]]
    assert set(beside.get_ydata()) == {1.5}


def test_the_same_log_gives_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in LOG))
    pictures = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for picture in pictures:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.curve", f"--run={tmp_path}", f"--picture={picture}"],
            cwd=ROOT,
            check=True,
        )
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert "bits a byte" in pictures[0].read_text()
