"""TensorBoard, Weights & Biases and MLflow draw a run's curves; none of them can hold up or end a training."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from support import tiny_config

from gpt1_jax.errors import UserError
from gpt1_jax.overrides import to_dict
from gpt1_jax.training import log, writers
from gpt1_jax.training.log import MetricsLog
from gpt1_jax.training.showing import Board


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(to_dict(tiny_config())))
    return directory


def train_twice(run: Path, tracker: Any) -> None:
    """Logs three steps, and then two more behind the second, as after a crash."""
    for first, last in ((0, 3), (2, 4)):
        metrics = MetricsLog(epath.Path(run), step=first, num_steps=4, tracker=tracker)
        for step in range(first + 1, last + 1):
            metrics.write(step, "train", {"loss": 1 / step})
        metrics.write_sample(last, "once", "upon a time")
        metrics.close()


def test_nothing_that_shows_a_training_imports_other_frameworks() -> None:
    program = (
        "import sys, gpt1_jax.training.log, gpt1_jax.pages.page, gpt1_jax.disk.events; "
        "print({'torch', 'tensorflow', 'wandb', 'mlflow'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n", done.stderr


def test_a_resumed_run_is_one_run_of_wandb(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train_twice(run, "wandb")
    known = json.loads((run / "tracking.json").read_text())["wandb"]
    parts = sorted(run.glob(f"wandb/offline-run-*-{known}/run-{known}.wandb"))
    assert len(parts) == 2 and b"train/loss" in parts[0].read_bytes()
    assert not capfd.readouterr().err


def test_a_resumed_run_is_one_run_of_mlflow_with_each_step(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    train_twice(run, "mlflow")
    client = mlflow.MlflowClient()
    (experiment,) = (found for found in client.search_experiments() if found.name == "gpt1_jax")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert {point.step: point.value for point in history} == {step: 1 / step for step in range(1, 5)}
    assert found.info.status == "FINISHED" and found.data.params["model.num_layers"] == "2"
    assert "warning" not in capfd.readouterr().err


def test_a_tracker_that_fails_is_told_once_and_the_log_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> writers.Writer:
        raise ConnectionError("no network")

    monkeypatch.setattr(log, "WandbWriter", fail)
    train_twice(run, "wandb")
    warnings = [line for line in capfd.readouterr().err.splitlines() if "Weights & Biases failed" in line]
    # One for each start.
    assert len(warnings) == 2 and "no network" in warnings[0]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4


class Slow:
    """A writer whose network hangs."""

    def add(self, step: int, values: Any) -> None:
        time.sleep(60)

    def add_text(self, step: int, name: str, text: str) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def test_a_network_that_hangs_holds_up_neither_the_training_nor_its_end() -> None:
    began = time.monotonic()
    board = Board("a slow one", Slow, patience=0.2)
    for step in range(30_000):
        board.add(step, {"loss": 1.0})
    board.close()
    assert time.monotonic() - began < 5


def test_a_tracker_whose_package_is_absent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    writers.check_tracker("none")
    with pytest.raises(UserError, match=r"train\.tracker=mlflow .* pip install 'gpt1_jax\[mlflow\]'"):
        writers.check_tracker("mlflow")
