"""If one of several processes is lost, or never comes, the others say which, within seconds, and end with 1."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_support import ROOT, Runner, last_step
from pod_support import Pod, free_port

SECONDS = 20  # within which the others end, on a machine that does much else
LOST = "Start all processes again with the same command: the run goes on from its newest checkpoint."
LONG = {"train.num_steps": 100_000, "optimizer.total_steps": 1000}
# The command, with less patience.
HURRIED = """
from gpt1_jax.devices import places, roll_call
places.PATIENCE, roll_call.REPORT_AFTER, roll_call.NAME_PATIENCE = 4, 1, 1
from gpt1_jax.door import door
from gpt1_jax.main import main
door(main)
"""


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("lost"))


def lose(pod: Pod, victim: int, ready: Callable[[], bool]) -> list[str]:
    """Kills a process once it is time; what the others say, who must have ended well."""
    deadline = time.monotonic() + 150
    try:
        while not ready():
            ended = [process.communicate() for process in pod.processes if process.poll() is not None]
            assert time.monotonic() < deadline and not ended, ended
            time.sleep(0.01)
        pod.processes[victim].kill()
        killed = time.monotonic()
        said = []
        for number, process in enumerate(pod.processes):
            if number != victim:
                said.append(process.communicate(timeout=60)[1])
                assert process.returncode == 1, said
        assert time.monotonic() - killed < SECONDS
    finally:
        for process in pod.processes:
            process.kill()
    for each in said:
        assert f"error: Process {victim} on " in each and each.rstrip().endswith(LOST), each
        assert "Traceback" not in each and "Aborted" not in each, each
    return said


def test_the_first_is_lost_in_training(runner: Runner, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    lose(Pod(runner, workdir, 2, **LONG), 0, lambda: last_step(workdir) >= 2)


@pytest.mark.slow
def test_another_is_lost_in_training_and_the_same_command_goes_on(runner: Runner, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    settings = LONG | {"train.eval_every": 1000, "train.checkpoint_every": 4}
    lose(Pod(runner, workdir, 2, **settings), 1, lambda: (workdir / "checkpoints" / "4").exists())
    texts = Pod(runner, workdir, 2, **settings | {"train.num_steps": last_step(workdir) + 2}).finish()
    assert "resuming at step" in texts[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_lost_while_they_evaluate(runner: Runner, tmp_path: Path, victim: int) -> None:
    workdir = tmp_path / "run"
    settings = LONG | {"train.eval_every": 1, "train.eval_batches": 0}
    lose(Pod(runner, workdir, 2, **settings), victim, lambda: last_step(workdir) >= 3)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("moment", ["config.json", "metrics.jsonl"])
def test_one_is_lost_at_the_start(runner: Runner, tmp_path: Path, victim: int, moment: str) -> None:
    """The loss happens while the run directory is made, and while they compile."""
    workdir = tmp_path / "run"
    lose(Pod(runner, workdir, 2, **LONG), victim, lambda: (workdir / moment).exists())


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 3])
def test_one_of_four_is_lost(runner: Runner, tmp_path: Path, victim: int) -> None:
    workdir = tmp_path / "run"
    lose(Pod(runner, workdir, 4, **LONG), victim, lambda: last_step(workdir) >= 2)


@pytest.mark.slow
def test_one_that_stands_still_is_lost_in_a_minute(runner: Runner, tmp_path: Path) -> None:
    """Its connections are there: jax's heartbeats notice it."""
    workdir = tmp_path / "run"
    pod = Pod(runner, workdir, 2, **LONG)
    try:
        deadline = time.monotonic() + 150
        while last_step(workdir) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        pod.processes[1].send_signal(signal.SIGSTOP)
        _, err = pod.processes[0].communicate(timeout=150)
    finally:
        for process in pod.processes:
            process.kill()
    assert pod.processes[0].returncode == 1
    assert "error: " in err.splitlines()[-1] and err.rstrip().endswith(LOST)


def hurried(runner: Runner, flags: list[str], **environment: str) -> tuple[int, str]:
    """Exit code and standard error of the command, with less patience."""
    done = subprocess.run(
        [sys.executable, "-c", HURRIED, "--config=configs/pretrain.py:tiny",
         f"--workdir={runner.directory}/nothing", *flags],
        cwd=ROOT, env=runner.environment | environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_port_in_use_is_told_by_the_process_that_would_take_it(runner: Runner) -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        code, err = hurried(
            runner, [f"--coordinator=localhost:{port}", "--num_processes=2", "--process_id=0"]
        )
    assert code == 2
    assert f"error: The port {port} of --coordinator=localhost:{port} is in use on this host" in err


@pytest.mark.parametrize("number", [0, 1])
def test_who_does_not_come_is_told_within_seconds_and_waited_for_in_vain(runner: Runner, number: int) -> None:
    """The variables name the same as the flags."""
    address = f"localhost:{free_port()}"
    told = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(number)}
    code, err = hurried(runner, [], **told)
    assert code == 1
    waiting, error = [line for line in err.splitlines() if "process" in line]
    assert waiting.startswith(f"Process {number} is waiting for process {1 - number}") and address in waiting
    assert "To train alone, give --num_processes=1." in waiting
    assert error.startswith("error: ") and f"rocess {1 - number}" in error and "4 s" in error


def test_a_host_without_an_address_is_wrong_input(runner: Runner) -> None:
    code, err = hurried(runner, ["--coordinator=nowhere.invalid:1", "--num_processes=2", "--process_id=1"])
    assert code in (1, 2)  # 1 where the name server itself does not answer
    assert "error: --coordinator=nowhere.invalid:1: the host nowhere.invalid has no address" in err


def test_a_task_of_slurm_that_is_alone_says_whom_it_waits_for(runner: Runner) -> None:
    """Some clusters start the shell of an allocation like this."""
    slurm = {
        "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "4", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "1", "JAX_COORDINATOR_PORT": str(free_port()),
    }  # fmt: skip
    code, err = hurried(runner, [], **slurm)
    assert code == 1
    assert "Process 0 is waiting for processes 1, 2 and 3 of 4" in err and "--num_processes=1" in err
