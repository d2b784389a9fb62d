"""Runs whose files a crash or a bad disk has damaged: they go on to the same end, or a sentence says what is lost."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.commands import Commands
from faults.small_runs import BEGUN, Place, copied, damages, losses


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Commands() as commands:
        yield Place(tmp_path_factory.mktemp("damaged"), commands)


@pytest.fixture(scope="module")
def begun(place: Place) -> Path:
    run = place.directory / "begun"
    done = place.pretrain(run, **{"train.num_steps": BEGUN})
    assert done.code == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def undisturbed(place: Place, begun: Path) -> Path:
    run = copied(begun, place.directory / "undisturbed")
    done = place.pretrain(run)
    assert done.code == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def tuned(place: Place, begun: Path) -> Path:
    run = place.directory / "tuned"
    done = place.finetune(run, begun, **{"train.num_epochs": 1})
    assert done.code == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def tuned_undisturbed(place: Place, begun: Path, tuned: Path) -> Path:
    run = copied(tuned, place.directory / "tuned_undisturbed")
    done = place.finetune(run, begun)
    assert done.code == 0, done.stderr
    return run


def check(place: Place, run: Path, name: str, undisturbed: Path, start: Path | None = None) -> None:
    """Goes on with a damaged run: it ends like an undisturbed one, and reports what its log lacks."""
    done = place.pretrain(run) if start is None else place.finetune(run, start)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.code == 0, done.stderr
    ours, theirs = losses(run), losses(undisturbed)
    if name == "metrics.jsonl":
        assert set(ours) <= set(theirs)
        assert ours == theirs or "damaged line" in done.stdout or "is lost" in done.stdout
    else:
        assert ours == theirs


@pytest.mark.slow
def test_all_that_a_crash_damaged_at_once_is_made_again(
    place: Place, begun: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = copied(begun, tmp_path / "run")
    wrong = {
        "config.json": "empty",
        "corpus.json": "a bit at 1/2",
        "results.json": "zeros",
        "metrics.jsonl": "zeros at the end",
        "tokenizer/sentencepiece.model": "half",
    }
    for name, damage in wrong.items():
        (run / name).write_bytes(dict(damages(1))[damage]((run / name).read_bytes()))
    done = place.pretrain(run)
    assert done.code == 0 and "Traceback" not in done.stderr, done.stderr
    assert losses(run) == losses(undisturbed)
    for name in ("config.json", "corpus.json", "results.json", "tokenizer"):
        assert f"{run}/{name} was" in done.stdout, done.stdout
    assert "1 damaged line left out" in done.stdout
    assert (run / "corpus.json").read_bytes() == (undisturbed / "corpus.json").read_bytes()


@pytest.mark.endurance
@pytest.mark.parametrize("damage", ["empty", "a bit at 1/2"])
def test_the_task_of_a_fine_tuned_run_is_made_again(
    place: Place, begun: Path, tuned: Path, tuned_undisturbed: Path, tmp_path: Path, damage: str
) -> None:
    run = copied(tuned, tmp_path / "run")
    path = run / "task.json"
    whole = path.read_bytes()
    path.write_bytes(dict(damages(1))[damage](whole))
    told = place.commands.run("evaluate", f"--workdir={run}")
    assert told.code == 2 and "task.json is missing or damaged" in told.stderr, told.stderr
    check(place, run, "task.json", tuned_undisturbed, begun)
    assert path.read_bytes() == whole


def test_a_damaged_tokenizer_is_not_used_to_read(place: Place, begun: Path, tmp_path: Path) -> None:
    run = copied(begun, tmp_path / "run")
    path = run / "tokenizer" / "sentencepiece.model"
    path.write_bytes(path.read_bytes().replace(b"river", b"rivrr"))
    told = place.commands.run("generate", f"--workdir={run}", "--prompt=the", "--max_new_tokens=2")
    assert told.code == 2 and "tokenizer" in told.stderr and "damaged" in told.stderr, told.stderr


@pytest.mark.slow
def test_a_directory_with_brackets_is_trained_in_and_read(
    place: Place, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "[2026] runs" / "lr[1e-3]"
    for steps in (2, BEGUN):
        done = place.pretrain(run, **{"train.num_steps": steps, "train.eval_every": 100})
        assert done.code == 0, done.stderr
    trained = [entry for entry in losses(undisturbed) if entry[1] == "train" and entry[0] <= BEGUN]
    assert [entry for entry in losses(run) if entry[1] == "train"] == trained
    told = place.commands.run("generate", f"--workdir={run}", "--prompt=the", "--max_new_tokens=2")
    assert told.code == 0, told.stderr


@pytest.mark.endurance
@pytest.mark.parametrize("damage", [name for name, _ in damages(3)] + ["gone"])
def test_every_small_file_in_turn(
    place: Place, begun: Path, undisturbed: Path, tmp_path: Path, damage: str
) -> None:
    files = [
        path.relative_to(begun)
        for path in sorted(begun.rglob("*"))
        if path.is_file() and path.relative_to(begun).parts[0] not in ("checkpoints", "tensorboard")
    ]
    assert len(files) >= 8
    for file in files:
        run = copied(begun, tmp_path / "run")
        if damage == "gone":
            (run / file).unlink()
        else:
            (run / file).write_bytes(dict(damages(3))[damage]((run / file).read_bytes()))
        check(place, run, str(file), undisturbed)
        shutil.rmtree(run)


@pytest.mark.endurance
@pytest.mark.parametrize("damage", [name for name, _ in damages(3)] + ["gone"])
def test_every_file_of_a_checkpoint_in_turn(
    place: Place, begun: Path, undisturbed: Path, tmp_path: Path, damage: str
) -> None:
    newest = begun / "checkpoints" / str(BEGUN)
    for file in sorted(path.relative_to(begun) for path in newest.rglob("*") if path.is_file()):
        run = copied(begun, tmp_path / "run")
        if damage == "gone":
            (run / file).unlink()
        else:
            (run / file).write_bytes(dict(damages(3))[damage]((run / file).read_bytes()))
        check(place, run, str(file), undisturbed)
        shutil.rmtree(run)
