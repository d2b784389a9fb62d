"""local.sh for real: processes that train together, one that dies, input that is wrong."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_support import ROOT, Runner, last_step
from launch_support import Cloud, small_run

STEPS = 120


class Pod:
    """local.sh, running."""

    def __init__(self, runner: Runner, *flags: str) -> None:
        self.process = subprocess.Popen(
            ["launch/local.sh", *flags],
            cwd=ROOT, env=runner.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def children(self) -> list[int]:
        """The training processes, in order."""
        process = self.process.pid
        pids = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        named = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in pids}
        found = {words[-2]: int(pid) for pid, words in named.items() if b"gpt1_jax.main" in words}
        return [found[name] for name in sorted(found)]

    def wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + 200
        while not path.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.finish(expect=None)
            time.sleep(0.02)

    def finish(self, expect: int | None = 0) -> str:
        try:
            out, _ = self.process.communicate(timeout=240)
        finally:
            self.process.kill()
        assert expect is None or self.process.returncode == expect, out
        return out


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_one_is_killed_and_all_go_on(runner: Runner, tmp_path: Path, count: int) -> None:
    """They go on from a checkpoint to the end by themselves."""
    workdir = tmp_path / "my run"
    pod = Pod(
        runner,
        f"--num_processes={count}",
        "--",
        *small_run(runner, workdir, **{"train.num_steps": STEPS}),
    )
    pod.wait_for(workdir / "checkpoints" / "20")
    children = pod.children()
    assert len(children) == count
    os.kill(children[1], signal.SIGKILL)
    out = pod.finish()
    assert "local.sh: process 1 ended with 137" in out
    assert out.count("local.sh: all start again, from the newest checkpoint (1 of 3)") == 1
    resumed = int(out.rpartition("resuming at step ")[2].split()[0])
    assert 20 <= resumed < STEPS and resumed % 20 == 0
    assert f"mesh {{'data': {count}" in out
    assert last_step(workdir) == STEPS


def test_devices_and_a_stop(runner: Runner, tmp_path: Path) -> None:
    """SIGTERM to the script: saved, 143, nothing starts again, nothing is left behind."""
    workdir = tmp_path / "run"
    flags = small_run(runner, workdir, **{"train.num_steps": 100_000, "optimizer.total_steps": 1000})
    pod = Pod(runner, "--devices=2", "--", *flags)
    pod.wait_for(workdir / "checkpoints" / "20")
    children = pod.children()
    pod.process.send_signal(signal.SIGTERM)
    out = pod.finish(expect=143)
    assert "mesh {'data': 4" in out and "Stopped by SIGTERM" in out and "start again" not in out
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert (workdir / "checkpoints" / str(last_step(workdir))).exists()


def test_wrong_input_is_not_tried_again(runner: Runner, tmp_path: Path) -> None:
    flags = small_run(runner, tmp_path / "run", **{"train.batch_size": 7})
    out = Pod(runner, "--", *flags).finish(expect=2)
    assert "error: " in out and "start again" not in out


@pytest.fixture
def stand_in(tmp_path: Path) -> Cloud:
    """python3, of which only the search for a port is real."""
    cloud = Cloud(tmp_path / "bin", "python")
    cloud.script(
        "python3",
        f'#!/bin/sh\n[ "$1" = -c ] && exec {shlex.quote(sys.executable)} "$@"\nexec "${{0%/*}}/python" "$@"\n',
    )
    return cloud


def test_the_commands(stand_in: Cloud) -> None:
    awkward = ["--a=b c", "--b=it's", "--c=$HOME `id`", "--d=*"]
    stand_in.run("launch/local.sh", "--num_processes=3", "--", *awkward)
    calls = sorted(stand_in.calls())
    assert [call[1:-3] for call in calls] == [["-m", "gpt1_jax.main", *awkward]] * 3
    assert len({call[-3] for call in calls}) == 1 and calls[0][-3].startswith("--coordinator=localhost:")
    assert [call[-2:] for call in calls] == [["--num_processes=3", f"--process_id={i}"] for i in range(3)]


def test_dry_run(stand_in: Cloud) -> None:
    out, _ = stand_in.run("launch/local.sh", "--devices=4", "--dry_run", "--", "--a=b c", "--c=$HOME")
    assert stand_in.calls() == []
    for line in out.splitlines():
        words = shlex.split(line)
        assert words[:6] == [
            "env", "JAX_PLATFORMS=cpu", "JAX_NUM_CPU_DEVICES=4", "python3", "-m", "gpt1_jax.main",
        ]  # fmt: skip
        assert words[6:8] == ["--a=b c", "--c=$HOME"]
    assert len(out.splitlines()) == 2


def test_it_gives_up(stand_in: Cloud) -> None:
    stand_in.answer("--process_id=1", (1, ""))
    _, err = stand_in.run("launch/local.sh", "--max_restarts=2", "--", "--config=x", expect=1)
    assert len(stand_in.calls()) == 2 * 3 and "gives up" in err


def test_a_wrong_code_wins(stand_in: Cloud) -> None:
    """One says why, another dies of it."""
    stand_in.answer("--process_id=0", (134, ""))
    stand_in.answer("--process_id=1", (2, ""))
    stand_in.run("launch/local.sh", "--", "--config=x", expect=2)
    assert len(stand_in.calls()) == 2


def test_a_process_that_was_preempted_and_saved_starts_again(stand_in: Cloud) -> None:
    """It starts again with the others, which stopped at the same step."""
    stand_in.answer("--process_id=0", (143, ""), (0, ""))
    stand_in.answer("--process_id=1", (143, ""), (0, ""))
    _, err = stand_in.run("launch/local.sh", "--", "--config=x")
    assert len(stand_in.calls()) == 2 * 2 and "all start again" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no training flags"),
        (["--config=x"], "--config=x is not a flag"),
        (["--num_processes=0", "--", "--config=x"], "--num_processes=0 is not a number"),
        (["--devices=x", "--", "--config=x"], "--devices=x is not a number"),
        (["--max_restarts=-1", "--", "--config=x"], "--max_restarts=-1 is not a number"),
    ],
)
def test_what_is_typed_wrong_is_told(stand_in: Cloud, words: list[str], told: str) -> None:
    _, err = stand_in.run("launch/local.sh", *words, expect=2)
    assert told in err and stand_in.calls() == []
