"""A disk that fills while a run is trained: one sentence, exit code 1, and it goes on when there is room."""

import itertools
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_support import Runner, last_step
from faults.commands import Commands
from faults.small_runs import STEPS, Place, losses
from pod_support import Pod


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Commands() as commands:
        yield Place(tmp_path_factory.mktemp("full"), commands)


def mount(directory: Path, size: str, options: str = "") -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "none", str(directory)], capture_output=True
    )
    if done.returncode:
        pytest.skip("file systems cannot be mounted here")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount(directory, "1m")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_in_a_sentence_and_the_run_goes_on_when_there_is_room(
    place: Place, disk: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    assert place.pretrain(whole).code == 0
    ended = []
    for blocks in (0, 100, 500, 800):
        run = disk / "run"
        filler = disk / "filler"
        filler.write_bytes(bytes(blocks * 1024))
        done = place.pretrain(run)
        if done.code:
            assert done.code == 1, done.stderr
            assert "Traceback" not in done.stderr, done.stderr
            told = done.stderr.strip().splitlines()
            assert told[-1].startswith("error: ") and "No space left on device" in told[-1], done.stderr
            ended.append(told[-1])
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        done = place.pretrain(run)
        assert done.code == 0, done.stderr
        assert losses(run) == losses(whole)
        assert (run / "checkpoints" / str(STEPS)).is_dir()
        subprocess.run(["rm", "-r", str(run)], check=True)
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
    assert len(ended) >= 3
    assert any("could not be saved" in line for line in ended), ended


@pytest.mark.slow
def test_a_disk_that_cannot_be_written_is_a_sentence(place: Place, tmp_path: Path) -> None:
    directory = tmp_path / "disk"
    directory.mkdir()
    mount(directory, "1m", ",ro")
    try:
        done = place.pretrain(directory / "run")
    finally:
        subprocess.run(["umount", str(directory)], check=True)
    assert done.code == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "Read-only file system" in done.stderr


# ── Of several processes one cannot write ────────────────────────────────────────────────────────────────────

SECONDS = 40  # within which all end, on a machine that does much else; ten are the others' grace
LIMIT = 20_000  # bytes of a file: fewer than a process writes of a checkpoint, more than of anything else
FOREVER = {"train.num_steps": 100_000, "optimizer.total_steps": 1000, "train.eval_every": 100_000}
# By the save that fails: settings, and the file of the run at which the disk is full.
SAVES: dict[str, tuple[dict[str, Any], str]] = {
    "the first": (FOREVER | {"train.checkpoint_every": 40}, "metrics.jsonl"),
    "one in the background": (FOREVER | {"train.checkpoint_every": 100}, "checkpoints/100"),
    # the evaluation of step 8 gives us the time to fill the disk
    "the last": (
        {"train.num_steps": 16, "train.checkpoint_every": 8, "train.eval_every": 8},
        "checkpoints/8",
    ),
    "that of a stop": (FOREVER | {"train.checkpoint_every": 100_000}, "metrics.jsonl"),
}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("runner"))


def await_that(pod: Pod, path: Path) -> None:
    deadline = time.monotonic() + 150
    while not path.exists():
        ended = [process.communicate() for process in pod.processes if process.poll() is not None]
        assert time.monotonic() < deadline and not ended, ended
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("save", "victim"), [*itertools.product(SAVES, (0, 1))])
def test_a_save_that_fails_on_one_process_ends_all_in_a_sentence_and_the_run_goes_on(
    runner: Runner, tmp_path: Path, save: str, victim: int
) -> None:
    run = tmp_path / "run"
    settings, moment = SAVES[save]
    settings = {"train.log_every": 1000, "model.d_model": 64, "model.d_ff": 256} | settings
    pod = Pod(runner, run, 2, **settings)
    try:
        await_that(pod, run / moment)
        resource.prlimit(pod.processes[victim].pid, resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
        if save == "that of a stop":
            while last_step(run) < 1:
                time.sleep(0.01)
            pod.processes[1 - victim].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=120)[1] for process in pod.processes]
    finally:
        for process in pod.processes:
            process.kill()

    assert [process.returncode for process in pod.processes] == [1, 1], said
    newest = (
        r"checkpoint \d+ is the newest whole one" if "checkpoints" in moment else "there is none before it"
    )
    sentence = (
        rf"Checkpoint \d+ could not be saved in {re.escape(str(run))}/checkpoints \(File too large\); {newest}. "
        "Fix that, and run the same command again to go on."
    )
    for number, text in enumerate(said):
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        told = "error: " if number == victim else f"error: Process {victim}: "
        assert len(lines) == 1 and re.fullmatch(told + sentence, lines[0]), said
        assert "Traceback" not in text

    whole = [int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal()]
    steps = max(whole, default=0) + 2
    texts = Pod(runner, run, 2, **settings | {"train.num_steps": steps}).finish()
    assert f"resuming at step {max(whole)}" in texts[0][0] if whole else "a new run" in texts[0][0]
    assert (run / "checkpoints" / str(steps)).exists()
