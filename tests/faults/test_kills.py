"""Runs that are killed at random moments, and read while they are trained."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from faults.commands import Commands
from faults.small_runs import Place, losses

KILLS = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Commands() as commands:
        yield Place(tmp_path_factory.mktemp("killed"), commands)


@pytest.fixture(scope="module")
def pretrained(place: Place) -> Path:
    run = place.directory / "pretrained"
    done = place.pretrain(run)
    assert done.code == 0, done.stderr
    return run


def kill_until_done(place: Place, flags: Sequence[str], seconds: float) -> int:
    """Starts a training again and again, killed after a random part of the time it takes; how often it was."""
    moments, killed = random.Random(0), 0
    for _ in range(KILLS):
        process = place.start(flags)
        deadline = time.monotonic() + moments.uniform(0.2, 1) * seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        killed += process.poll() is None
        process.kill()
        _, told = process.communicate()
        assert "Traceback" not in told, told
    process = place.start(flags)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    return killed


@pytest.mark.endurance
@pytest.mark.parametrize("stage", ["pretraining", "fine-tuning"])
def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(
    place: Place, pretrained: Path, tmp_path: Path, stage: str
) -> None:
    flags: Callable[[Path], list[str]] = (
        place.pretraining if stage == "pretraining" else lambda run: place.finetuning(run, pretrained)
    )
    began = time.monotonic()
    process = place.start(flags(tmp_path / "whole"))
    _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert kill_until_done(place, flags(tmp_path / "killed"), time.monotonic() - began) >= KILLS // 3
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    for name in ("results.json", "config.json", "corpus.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.endurance
def test_a_run_is_read_while_it_is_trained(place: Place, tmp_path: Path) -> None:
    """Its trainer keeps two checkpoints and saves one at every step."""
    run = tmp_path / "run"
    process = place.start(
        place.pretraining(
            run,
            **{
                "train.num_steps": 100_000,
                "optimizer.total_steps": 0,
                "train.checkpoint_every": 1,
                "train.keep_checkpoints": 2,
                "train.eval_every": 100_000,
                "train.log_every": 1000,
            },
        )
    )
    try:
        while not list(run.glob("checkpoints/*/commit_success.txt")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        for _ in range(6):
            told = place.commands.run("generate", f"--workdir={run}", "--prompt=the", "--max_new_tokens=2")
            assert told.code == 0 and "damaged" not in told.stderr, told.stderr
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
