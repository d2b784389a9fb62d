"""slurm.sbatch, in a small stand-in for Slurm: it spools the script, runs tasks, and queues again what asks for it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_support import ROOT, Runner, last_step
from launch_support import LAUNCH, Cloud, small_run

SBATCH = """#!{python}
import itertools, os, pathlib, shutil, subprocess, sys
here = pathlib.Path(__file__).parent
at = next(i for i, word in enumerate(sys.argv) if i and not word.startswith("-"))
shutil.copy(sys.argv[at], here / "slurm_script")
for restart in itertools.count():
    (here / "requeued").unlink(missing_ok=True)
    counted = {{"SLURM_RESTART_COUNT": str(restart)}} if restart else {{}}
    job = os.environ | {{"SLURM_JOB_ID": os.environ.get("JOB", "7")}} | counted
    code = subprocess.call(["bash", here / "slurm_script", *sys.argv[at + 1:]], env=job)
    if not (here / "requeued").exists():
        sys.exit(code)
"""
SCONTROL = '#!/bin/sh\n[ "$*" = "requeue $SLURM_JOB_ID" ] && echo >> "${0%/*}/requeues" && touch "${0%/*}/requeued"\n'
SRUN = """#!{python}
import os, pathlib, subprocess, sys
here = pathlib.Path(__file__).parent
command = sys.argv[1:]
while command[0].startswith("-"):
    del command[0]
step = {{"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1"}}
tasks = [
    subprocess.Popen(
        command,
        env=os.environ | step | {{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}},
        start_new_session=True,
    )
    for i in range(2)
]
(here / "tasks").write_text(" ".join(str(task.pid) for task in tasks))
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SUBMIT = ["sbatch", "--nodes=2", "--partition=gpu", "launch/slurm.sbatch"]
TRAINING = ["--", "--config=configs/pretrain.py", "--workdir=/shared/my run", "--x=it's $HOME"]


@pytest.fixture
def slurm(tmp_path: Path) -> Cloud:
    slurm = Cloud(tmp_path / "bin", "srun")
    slurm.script("sbatch", SBATCH.format(python=sys.executable))
    slurm.script("scontrol", SCONTROL)
    return slurm


def requeues(slurm: Cloud) -> int:
    path = slurm.directory / "requeues"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_the_command_of_a_task(slurm: Cloud) -> None:
    slurm.run(*SUBMIT, *TRAINING)
    assert slurm.calls() == [
        ["srun", "--kill-on-bad-exit=0", "--wait=60", "python3", "-m", "gpt1_jax.main",
         *TRAINING[1:]],
    ]  # fmt: skip
    assert requeues(slurm) == 0


def test_in_a_container(slurm: Cloud) -> None:
    slurm.run(*SUBMIT, "--image=registry#image:1", *TRAINING)
    (call,) = slurm.calls()
    assert call[3:6] == [
        "--container-image=registry#image:1", f"--container-mounts={ROOT}", f"--container-workdir={ROOT}",
    ]  # fmt: skip


def test_a_container_sees_the_disk_of_the_runs(slurm: Cloud) -> None:
    slurm.run(*SUBMIT, "--image=i", "--mounts=/shared,/data", *TRAINING)
    assert f"--container-mounts={ROOT},/shared,/data" in slurm.calls()[0]


def test_tasks_have_the_cpus_that_were_asked_for(slurm: Cloud) -> None:
    slurm.run(*SUBMIT, *TRAINING, SLURM_CPUS_PER_TASK="8")
    assert "--cpus-per-task=8" in slurm.calls()[0]


@pytest.mark.parametrize("code", [143, 1, 134, 137])
def test_a_stop_or_a_crash_queues_again(slurm: Cloud, code: int) -> None:
    slurm.answer("srun", (code, ""), (code, ""), (0, ""))
    slurm.run(*SUBMIT, *TRAINING)
    assert requeues(slurm) == 2
    first, *others = slurm.calls()
    assert others == [first] * 2


def test_an_interruption_does_not(slurm: Cloud) -> None:
    """Somebody wanted it to end."""
    slurm.answer("srun", (130, ""))
    slurm.run(*SUBMIT, *TRAINING, expect=130)
    assert requeues(slurm) == 0


def test_wrong_input_does_not(slurm: Cloud) -> None:
    slurm.answer("srun", (2, ""))
    _, err = slurm.run(*SUBMIT, *TRAINING, expect=2)
    assert requeues(slurm) == 0 and "the input is wrong" in err


def test_crashes_end_after_a_while_and_stops_do_not(slurm: Cloud) -> None:
    slurm.answer("srun", *[(143, "")] * 5, (1, ""))
    slurm.run(*SUBMIT, "--max_restarts=3", *TRAINING, expect=1)
    assert requeues(slurm) == 5


def test_dry_run(slurm: Cloud) -> None:
    out, _ = slurm.run("bash", "launch/slurm.sbatch", "--dry_run", *TRAINING)
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {out}"], capture_output=True, text=True, check=True
    )
    assert words.stdout.split("\0")[-4:-1] == TRAINING[1:]
    assert words.stdout.startswith("srun\0") and slurm.calls() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no training flags"),
        (["--config=x"], "--config=x is not a flag"),
        (["--max_restarts=x", *TRAINING], "--max_restarts=x is not a number"),
    ],
)
def test_what_is_typed_wrong_is_told(slurm: Cloud, words: list[str], told: str) -> None:
    _, err = slurm.run(*SUBMIT, *words, expect=2)
    assert told in err and slurm.calls() == []


def test_it_says_where_it_must_be_submitted(slurm: Cloud, tmp_path: Path) -> None:
    _, err = slurm.run("sbatch", LAUNCH / "slurm.sbatch", *TRAINING, cwd=tmp_path, expect=2)
    assert "submit from the repository's root" in err


def test_its_directives() -> None:
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    pairs = [line.removeprefix("#SBATCH --").partition("=") for line in lines if line.startswith("#SBATCH")]
    directives = {name: value for name, _, value in pairs}
    assert directives == {
        "job-name": "gpt1_jax",
        "nodes": "2",
        "ntasks-per-node": "8",
        "gpus-per-node": "8",
        "cpus-per-task": "8",
        "time": "24:00:00",
        "signal": "TERM@120",  # to the tasks, which save, not to the script
        "requeue": "",
        "open-mode": "append",  # a log of all runs
    }
    assert directives["ntasks-per-node"] == directives["gpus-per-node"]
    assert lines[0] == "#!/usr/bin/env bash" and lines[1].startswith("#SBATCH")


@pytest.mark.slow
def test_tasks_find_each_other_stop_at_the_time_limit_and_resume(
    slurm: Cloud, runner: Runner, tmp_path: Path
) -> None:
    """In real processes jax detects Slurm, SIGTERM reaches all of the step, and the job queues itself and goes on."""
    slurm.script("srun", SRUN.format(python=sys.executable))
    workdir = tmp_path / "run"
    environment = runner.environment | {
        "PATH": os.pathsep.join([str(slurm.directory), runner.environment["PATH"]]),
        "JOB": str(job_with_a_free_port()),
        "JAX_NUM_CPU_DEVICES": "1",
    }
    job = subprocess.Popen(
        [*SUBMIT, "--", *small_run(runner, workdir, **{"train.num_steps": 400})],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 200
        while last_step(workdir) < 5 and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        for task in (slurm.directory / "tasks").read_text().split():
            os.killpg(int(task), signal.SIGTERM)
        out, _ = job.communicate(timeout=200)
    finally:
        job.kill()
    assert job.returncode == 0, out
    assert requeues(slurm) == 1
    assert "Stopped by SIGTERM" in out and "resuming at step" in out
    assert "mesh {'data': 2" in out
    assert last_step(workdir) == 400


def job_with_a_free_port() -> int:
    """jax listens at 61440 + job % 4096."""
    for job in range(os.getpid() % 4096, 8192):
        with socket.socket() as probe:
            try:
                probe.bind(("localhost", 61440 + job % 4096))
            except OSError:
                continue
            return job
    raise AssertionError("no port is free")
