"""Checkpoints on bad days: odd directories, disks that fail, trainers beside us, flipped bits."""

import errno
import os
import pwd
import shutil
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from faults.small_runs import damages
from orbax.checkpoint import v1 as ocp
from training_support import assert_bit_equal

from gpt1_jax.errors import Fault, UserError
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.literal_paths import LiteralPath


class Small(NamedTuple):
    """Returns the smallest content of a checkpoint."""

    step: jax.Array
    params: dict[str, Any]


def state_of(step: int) -> Small:
    draws = np.random.default_rng(step)
    return Small(jnp.int32(step), {name: jnp.asarray(draws.normal(size=(4, 8)), "float32") for name in "ab"})


ABSTRACT = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
    ),
    state_of(0),
)


def save(directory: Path, *steps: int, keep: int = 9) -> None:
    checkpoints = Checkpoints(epath.Path(directory) / "checkpoints", keep)
    for step in steps:
        checkpoints.save(step, state_of(step))
    checkpoints.close()


def read_only(directory: Path) -> Checkpoints:
    return Checkpoints(epath.Path(directory) / "checkpoints")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints 1, 2 and 3."""
    directory = tmp_path_factory.mktemp("made")
    save(directory, 1, 2, 3)
    return directory


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


# ── Odd directories ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name",
    ["lr[1e-3]", "[2026] mine/run", "a*b?", "new\nline", "quo\"te'", "üñí ", "n" * 250, "{b}|;$#%20:,~"],
)
def test_a_directory_of_any_name_is_read_again(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True)
    save(tmp_path / name, 1, 2, keep=1)
    assert read_only(tmp_path / name).steps() == [2]
    assert_bit_equal(read_only(tmp_path / name).restore(2, ABSTRACT), state_of(2))


@pytest.mark.parametrize("name", ["back\\slash", os.fsdecode(b"bad\xff"), "gs:/x"])
def test_a_name_that_cannot_be_stored_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(UserError, match="Checkpoints cannot be stored in") as error:
        Checkpoints(epath.Path(tmp_path / name), keep=1)
    str(error.value).encode()
    assert not list(tmp_path.iterdir())


def test_files_of_a_user_without_a_name_are_stored_and_read(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In containers the uid may be in no list, but etils asks for the name of a file's owner."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for path in run.rglob("_CHECKPOINT_METADATA"):
        path.write_text("{}")  # then orbax asks the file for its time
    save(run, 4, keep=2)
    assert_bit_equal(read_only(run).restore_newest(ABSTRACT, print), state_of(4))


# ── Failures of saving ───────────────────────────────────────────────────────────────────────────────────────


def test_a_save_that_fails_in_the_background_is_told_at_the_next_look(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = set(threading.enumerate())
    checkpoints = Checkpoints(epath.Path(run) / "checkpoints", 9)
    checkpoints.save(4, state_of(4))
    checkpoints.watch()

    def full(path: LiteralPath, *_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    for name in ("rename", "replace", "write_text", "open"):
        monkeypatch.setattr(LiteralPath, name, full)
    checkpoints.save(5, state_of(5))
    with pytest.raises(
        Fault, match=r"Checkpoint 5 could not .*No space left.*checkpoint 4 is the newest whole one"
    ):
        for _ in range(1000):
            checkpoints.watch()
            time.sleep(0.01)
    checkpoints.close()  # tells nothing again
    left = [thread for thread in set(threading.enumerate()) - before if not thread.daemon]
    for thread in left:
        thread.join(10)
    assert not [thread for thread in left if thread.is_alive()]
    assert "Traceback" not in "".join(capfd.readouterr())
    assert read_only(run).steps() == [1, 2, 3, 4]


def test_a_dictionary_is_saved_too(tmp_path: Path) -> None:
    checkpoints = Checkpoints(epath.Path(tmp_path) / "checkpoints", 1)
    checkpoints.save(3, state_of(3)._asdict())
    checkpoints.close()
    assert_bit_equal(read_only(tmp_path).restore(3, ABSTRACT), state_of(3))


def test_the_first_checkpoint_of_a_process_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Fault, match="cannot be read again"):
        load = ocp.load
        patch.setattr(ocp, "load", lambda path, abstract: load(path / "elsewhere", abstract))
        save(tmp_path, 1)


# ── A trainer beside us ──────────────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_that_a_trainer_removed_is_not_damaged(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, load = read_only(run), ocp.load

    def replaced(path: epath.Path, abstract: Any) -> Any:
        """While 3 is read, a trainer saves 4 and removes the others."""
        if path.name == "3":
            save(run, 4, keep=1)
        return load(path, abstract)

    monkeypatch.setattr(ocp, "load", replaced)
    assert_bit_equal(checkpoints.restore_newest(ABSTRACT, pytest.fail), state_of(4))


def test_checkpoints_that_go_faster_than_they_are_read_are_a_fault(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = read_only(run)

    def replaced(path: epath.Path, abstract: Any) -> None:
        (run / "checkpoints" / path.name).rename(run / "checkpoints" / str(int(path.name) + 1))
        raise FileNotFoundError(path)

    monkeypatch.setattr(ocp, "load", replaced)
    with pytest.raises(Fault, match="faster than they can be read"):
        checkpoints.restore_newest(ABSTRACT, pytest.fail)


def test_on_a_store_without_renaming_only_committed_checkpoints_count(run: Path) -> None:
    checkpoints = read_only(run)
    for step in (1, 3):  # as a save leaves them that was killed
        (run / "checkpoints" / str(step) / "commit_success.txt").unlink(missing_ok=True)
    (run / "checkpoints" / "2" / "commit_success.txt").touch()
    checkpoints._remote = True
    assert checkpoints.steps() == [2]


def test_what_is_no_checkpoint_is_passed_over(run: Path) -> None:
    for name in ("²", "x7", "4.orbax-checkpoint-tmp", "-1"):
        (run / "checkpoints" / name).mkdir()
    assert read_only(run).steps() == [1, 2, 3]


# ── Going back ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_diverged_run_goes_back_and_keeps_what_it_leaves(run: Path) -> None:
    checkpoints = Checkpoints(epath.Path(run) / "checkpoints", 2)
    assert checkpoints.go_back(3) == []
    assert checkpoints.go_back(1) == [2, 3]
    assert sorted(path.name for path in (run / "diverged").iterdir()) == ["2", "3"]
    assert_bit_equal(checkpoints.restore_newest(ABSTRACT, pytest.fail), state_of(1))
    checkpoints.save(2, state_of(2))
    checkpoints.close()
    assert read_only(run).steps() == [1, 2]


# ── Damage ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_flipped_bit_in_a_name_of_the_metadata_is_damage(run: Path) -> None:
    (path,) = (run / "checkpoints" / "3").rglob("_METADATA")
    text = path.read_text()
    for letter in ("'params'", '"params"', '"a"', '"step"'):
        for place in range(len(text)):
            if not text.startswith(letter, place):
                continue
            flipped = text[: place + 1] + chr(ord(text[place + 1]) ^ 2) + text[place + 2 :]
            path.write_text(flipped)
            told: list[str] = []
            found = read_only(run).restore_newest(ABSTRACT, told.append)
            assert_bit_equal(found, state_of(2 if told else 3))


def test_an_older_checkpoint_with_damaged_metadata_does_not_keep_new_ones_from_being_saved(run: Path) -> None:
    path = run / "checkpoints" / "1" / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text().replace("performance_metrics", "performance_metrkcs"))
    checkpoints = Checkpoints(epath.Path(run) / "checkpoints", 9)
    assert_bit_equal(checkpoints.restore_newest(ABSTRACT, pytest.fail), state_of(3))
    checkpoints.save(4, state_of(4))
    checkpoints.close()
    assert_bit_equal(read_only(run).restore_newest(ABSTRACT, pytest.fail), state_of(4))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["3", "2"])
def test_every_file_damaged_in_every_way_leaves_a_run_that_goes_on(
    run: Path, tmp_path: Path, which: str
) -> None:
    """Asserts that the newest sound checkpoint is read bit by bit, and that what is saved afterwards is read again."""
    files = [path.relative_to(run) for path in (run / "checkpoints" / which).rglob("*") if path.is_file()]
    assert len(files) >= 8
    for file in files:
        for change in [*(change for _, change in damages(4)), None]:
            place = tmp_path / "damaged"
            shutil.copytree(run, place)
            if change is None:
                (place / file).unlink()
            else:
                (place / file).write_bytes(change((run / file).read_bytes()))
            told: list[str] = []
            checkpoints = Checkpoints(epath.Path(place) / "checkpoints", 2)
            found = checkpoints.restore_newest(ABSTRACT, told.append)
            assert_bit_equal(found, state_of(2 if told and which == "3" else 3))
            checkpoints.save(4, state_of(4))
            checkpoints.close()
            assert_bit_equal(read_only(place).restore_newest(ABSTRACT, pytest.fail), state_of(4))
            shutil.rmtree(place)
