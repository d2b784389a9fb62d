"""What a step is expected to take: what the log says, a guess where a speed is known, and otherwise nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from support import tiny_model, use_mesh

from gpt1_jax.run import Run
from gpt1_jax.training import plan
from gpt1_jax.training.plan import expect_seconds


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path))


class Chip:
    """A device that is not there."""

    platform, process_index = "tpu", 0

    def __init__(self, kind: str) -> None:
        self.device_kind = kind


class FakeMesh:
    """A mesh of four such devices."""

    size = 4

    def __init__(self, kind: str) -> None:
        self.devices = np.array([Chip(kind)] * 4, object)


def test_a_run_that_goes_on_is_as_fast_as_it_was(run: Run) -> None:
    lines = [
        {"step": 1, "kind": "train", "seconds_per_step": 9.0},
        {"step": 50, "kind": "train", "seconds_per_step": 0.25},
        {"step": 50, "kind": "eval", "loss": 1.0},
    ]
    path = epath.Path(run.directory) / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with use_mesh() as mesh:
        assert expect_seconds(run, tiny_model(), mesh, 1e12) == 0.25


def test_on_cpus_twice_the_work_takes_twice_the_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with use_mesh() as mesh:
        assert (expect_seconds(run, tiny_model(), mesh, 1e9) or 0) > 0
        monkeypatch.setattr(plan, "_measure_cpu", lambda dtype, mesh: 1e9)
        assert expect_seconds(run, tiny_model(), mesh, 6e8) == pytest.approx(1)
        assert expect_seconds(run, tiny_model(), mesh, 12e8) == pytest.approx(2)


@pytest.mark.parametrize(
    ("kind", "settings", "seconds"),
    [
        ("TPU v5e", {"dtype": "bfloat16"}, 1 / 0.35),
        ("TPU v5e", {"dtype": "float32"}, None),
        ("a chip of tomorrow", {"dtype": "bfloat16"}, None),
        ("TPU v5e", {"dtype": "bfloat16", "kind": "lstm", "num_layers": 1}, None),
    ],
)
def test_elsewhere_a_share_of_the_peak_is_expected_where_that_is_known(
    run: Run, kind: str, settings: dict[str, Any], seconds: float | None
) -> None:
    mesh: Any = FakeMesh(kind)
    found = expect_seconds(run, tiny_model(**settings), mesh, 4 * 197e12)
    assert found == (seconds if seconds is None else pytest.approx(seconds))
