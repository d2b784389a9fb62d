"""Several processes train as one: the same losses, the same checkpoints, one stop, one error."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from command_support import Runner, last_step, read_metrics
from pod_support import STEPS, Pod


def losses(workdir: Path, kind: str = "train") -> list[float]:
    return [entry["loss"] for entry in read_metrics(workdir) if entry["kind"] == kind]


@pytest.fixture(scope="module")
def single(runner: Runner) -> Path:
    workdir = runner.directory / "single"
    Pod(runner, workdir, 1).finish()
    return workdir


@pytest.mark.parametrize(
    ("count", "mesh"),
    [
        pytest.param(2, {}, id="2"),
        pytest.param(4, {"mesh.fsdp": 2, "mesh.tensor": 2}, id="4", marks=pytest.mark.slow),
    ],
)
def test_losses_are_those_of_one_process(
    runner: Runner, single: Path, tmp_path: Path, count: int, mesh: dict[str, int]
) -> None:
    texts = Pod(runner, tmp_path / "run", count, **mesh).finish()
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(single), rtol=2e-5)
    np.testing.assert_allclose(losses(tmp_path / "run", "eval"), losses(single, "eval"), rtol=2e-5)
    assert "step 16  validation" in texts[0][0]
    assert not any("step" in out for out, _ in texts[1:])  # one process speaks


@pytest.mark.slow
def test_a_run_goes_on_with_any_number_of_processes(runner: Runner, single: Path, tmp_path: Path) -> None:
    """From four to one and on to two: each reads the saved bits, as the checksums confirm, and goes on."""
    workdir = tmp_path / "run"
    for count, steps in ((4, 6), (1, 10), (2, STEPS)):
        texts = Pod(runner, workdir, count, **{"train.num_steps": steps}).finish()
        assert "damaged" not in texts[0][0]
    np.testing.assert_allclose(losses(workdir), losses(single), rtol=2e-5)


def test_a_signal_to_one_stops_all_at_one_step(runner: Runner, single: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    pod = Pod(runner, workdir, 2, **{"train.num_steps": 100_000})
    deadline = time.monotonic() + 120
    while last_step(workdir) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    pod.processes[1].send_signal(signal.SIGTERM)
    texts = pod.finish(expect=143)
    assert all("Stopped by SIGTERM with step" in err for _, err in texts)
    step = last_step(workdir)
    assert (workdir / "checkpoints" / str(step)).exists()
    again = Pod(runner, workdir, 1, **{"train.num_steps": step + 1}).finish()
    assert f"resuming at step {step}" in again[0][0]


class SlowPod(Pod):
    """Evaluates a batch in half a second; the second process gets a signal in its second one."""

    command = (
        "-c",
        """
import os, signal, sys, time
from gpt1_jax.data.batches import EvaluationBatches
from gpt1_jax.door import door
from gpt1_jax.main import main
rows, calls = EvaluationBatches.rows, [0]
def slow(*arguments):
    calls[0] += 1
    if calls[0] == 2 and "--process_id=1" in sys.argv:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
    return rows(*arguments)
EvaluationBatches.rows = slow
door(main)
""",
    )


@pytest.mark.slow
def test_a_signal_to_one_stops_all_within_an_evaluation(runner: Runner, single: Path, tmp_path: Path) -> None:
    """Step 8 is saved before; its evaluation is made up by the next start."""
    workdir = tmp_path / "run"
    texts = SlowPod(runner, workdir, 2, **{"train.eval_batches": 0}).finish(expect=143)
    assert all("Stopped by SIGTERM with step 8 saved" in err for _, err in texts)
    assert last_step(workdir) == 8 and losses(workdir, "eval") == []
    Pod(runner, workdir, 1, **{"train.eval_batches": 0}).finish()
    assert len(losses(workdir, "eval")) == 2


def test_processes_that_were_given_different_things_are_all_refused(runner: Runner, tmp_path: Path) -> None:
    texts = Pod(runner, tmp_path / "run", 2, seed=[0, 1]).finish(expect=2)
    for _, err in texts:
        assert "The config of process 1 differs from that of process 0" in err
    assert not (tmp_path / "run").exists()


def test_what_is_wrong_on_one_ends_all(runner: Runner, tmp_path: Path) -> None:
    """One cannot write its cache, and no other waits for it."""
    (tmp_path / "file").touch()
    places = {"data.cache_dir": [runner.directory / "cache", tmp_path / "file"]}
    texts = Pod(runner, tmp_path / "run", 2, **places).finish(expect=2)
    assert "error: Process 1: " in texts[0][1]
    assert str(tmp_path / "file") in texts[1][1]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--num_processes=2"], "go together"),
        (["--coordinator=here", "--num_processes=2", "--process_id=0"], "has no port"),
        (["--coordinator=here:1", "--num_processes=2", "--process_id=2"], "--process_id=2 is not one of"),
    ],
    ids=["alone", "port", "number"],
)
def test_flags_that_do_not_fit_are_told(runner: Runner, flags: list[str], told: str) -> None:
    code, _, err = runner.call("main", "--config=configs/pretrain.py:tiny", *flags)
    assert code == 2 and told in err, err
