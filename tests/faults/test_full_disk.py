"""A disk that fills while a run is trained: one sentence, exit code 1, and it goes on when there is room."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.commands import Commands
from faults.small_runs import STEPS, Place, losses


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
