"""Checkpoints: bit-equal on any mesh, taken at the moment of save, and no damage goes unnoticed."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from orbax.checkpoint import v1 as ocp
from support import tiny_config, use_mesh
from training_support import assert_bit_equal, make_batch, make_parts, place, to_host

from gpt1_jax.errors import Fault, UserError
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.checksums import checksums
from gpt1_jax.training.damage import Damaged
from gpt1_jax.training.state import State

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = tiny_config(**{"model.num_layers": 1, "optimizer.warmup_steps": 0})


def open_checkpoints(directory: Path, keep: int = 3) -> Checkpoints:
    return Checkpoints(epath.Path(directory) / "checkpoints", keep)


def random_state(abstract: State, seed: int) -> State:
    """Numbers of all sizes in every array, signed zeros and infinities among them, and step `seed`."""
    draws = np.random.default_rng(seed)

    def draw(like: jax.ShapeDtypeStruct) -> np.ndarray:
        bits = draws.integers(0, 2**32, like.shape, np.uint32).astype(np.uint32)
        if like.dtype == jnp.int32:
            return np.full(like.shape, seed, np.int32)
        values = bits.view(np.float32).copy()
        values[np.isnan(values)] = -0.0
        return values

    return place(jax.tree.map(draw, abstract), abstract)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[int, State]]:
    """A run with checkpoints 1 and 2, written on a mesh of 2×2×2, and what they hold."""
    directory = tmp_path_factory.mktemp("saved")
    with use_mesh(2, 2, 2) as mesh:
        abstract = make_parts(CONFIG, mesh).trainer.abstract
        states = {step: random_state(abstract, step) for step in (1, 2)}
        checkpoints = open_checkpoints(directory)
        for step, state in states.items():
            checkpoints.save(step, state)
        checkpoints.close()
    return directory, abstract, states


@pytest.fixture
def copied(saved: tuple[Path, Any, dict[int, State]], tmp_path: Path) -> tuple[Path, Any, dict[int, State]]:
    shutil.copytree(saved[0], tmp_path / "run")
    return tmp_path / "run", *saved[1:]


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 1, 1), (1, 2, 4)])
def test_what_is_saved_on_one_mesh_is_restored_on_another_bit_by_bit(saved, shape) -> None:
    directory, _, states = saved
    with use_mesh(*shape) as mesh:
        abstract = make_parts(CONFIG, mesh).trainer.abstract
        restored = open_checkpoints(directory).restore(2, abstract)
    assert isinstance(restored, State)
    assert_bit_equal(restored, states[2])
    for leaf, like in zip(jax.tree.leaves(restored), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding == like.sharding


def test_a_part_can_be_restored_alone(saved) -> None:
    directory, abstract, states = saved
    restored = open_checkpoints(directory).restore(2, {"params": abstract.params})
    assert restored.keys() == {"params"}
    assert_bit_equal(restored["params"], states[2].params)


def test_a_shape_that_does_not_fit_is_refused(saved) -> None:
    directory, abstract, _ = saved
    wrong = jax.ShapeDtypeStruct((8, 32), jnp.float32, sharding=abstract.params["positions"].sharding)
    with pytest.raises(Damaged):
        open_checkpoints(directory).restore(2, {"params": abstract.params | {"positions": wrong}})


@pytest.mark.parametrize("shape", [pytest.param((1, 1, 1), marks=pytest.mark.slow), (2, 2, 2)])
def test_a_save_holds_its_moment_though_training_goes_on_and_donates(tmp_path: Path, shape) -> None:
    with use_mesh(*shape) as mesh:
        parts = make_parts(CONFIG, mesh)
        batches = [make_batch(CONFIG, mesh, step) for step in range(4)]
        checkpoints = open_checkpoints(tmp_path, keep=9)
        state, expected = parts.state, {}
        for save in range(1, 4):
            expected[save] = to_host(state)
            checkpoints.save(save, state)
            for batch in batches:  # at once, while the save is still being written
                state, _ = parts.trainer.step(state, batch)
            jax.block_until_ready(state)
        checkpoints.wait()
        for save, values in expected.items():
            assert_bit_equal(checkpoints.restore(save, parts.trainer.abstract), values)
        assert any((expected[1][name] != expected[2][name]).any() for name in expected[1] if "params" in name)


def test_the_newest_are_kept(saved, tmp_path: Path) -> None:
    state = saved[2][1]
    checkpoints = open_checkpoints(tmp_path, keep=2)
    assert checkpoints.steps() == []
    for step in (3, 9, 10, 100):
        checkpoints.save(step, state)
    checkpoints.wait()
    assert checkpoints.steps() == [10, 100]
    checkpoints.close()


def test_nothing_saved_is_none(saved, tmp_path: Path) -> None:
    assert open_checkpoints(tmp_path).restore_newest(saved[1], pytest.fail) is None


# ── Damage ───────────────────────────────────────────────────────────────────────────────────────────────────


def largest_file(step: Path) -> Path:
    return max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(step: Path) -> None:
    path = largest_file(step)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate(step: Path) -> None:
    path = largest_file(step)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_a_block(step: Path) -> None:
    path = largest_file(step)
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(4096) + data[8192:])


def empty(step: Path) -> None:
    largest_file(step).write_bytes(b"")


def delete_data(step: Path) -> None:
    largest_file(step).unlink()


def change_a_checksum(step: Path) -> None:
    """The flipped bits are in the metadata, which has a checksum of its own."""
    for path in step.rglob("*"):
        if path.is_file() and b"checksums" in path.read_bytes():
            text = path.read_bytes()
            at = text.index(b"checksums")
            digit = next(i for i in range(at, len(text)) if text[i : i + 1].isdigit())
            path.write_bytes(
                text[:digit] + (b"1" if text[digit : digit + 1] != b"1" else b"2") + text[digit + 1 :]
            )
            return
    raise AssertionError("no checksum in the metadata")


def assert_falls_back(directory: Path, abstract: Any, states: dict[int, State]) -> None:
    """Checkpoint 2 is found damaged, reported and moved; 1 is restored; and the run can save 2 again."""
    told: list[str] = []
    checkpoints = open_checkpoints(directory)
    assert_bit_equal(checkpoints.restore_newest(abstract, told.append), states[1])
    assert len(told) == 2 and "\n" not in "".join(told)
    assert told[0].startswith("checkpoint 2 is damaged") and str(directory / "damaged" / "2") in told[1]
    assert checkpoints.steps() == [1] and (directory / "damaged" / "2").is_dir()
    checkpoints.save(2, states[2])
    checkpoints.close()
    assert_bit_equal(open_checkpoints(directory).restore_newest(abstract, pytest.fail), states[2])


@pytest.mark.parametrize(
    "damage", [flip_a_bit, truncate, zero_a_block, empty, delete_data, change_a_checksum]
)
def test_damage_is_told_and_the_checkpoint_before_is_taken(copied, damage: Callable[[Path], None]) -> None:
    directory, abstract, states = copied
    damage(directory / "checkpoints" / "2")
    with pytest.raises(Damaged):
        open_checkpoints(directory).restore(2, abstract)
    assert_falls_back(directory, abstract, states)


def test_changed_checksums_are_not_taken_for_changed_arrays(copied) -> None:
    directory, abstract, _ = copied
    change_a_checksum(directory / "checkpoints" / "2")
    with pytest.raises(Damaged, match="metadata has changed"):
        open_checkpoints(directory).restore(2, abstract)


def test_a_flipped_bit_names_the_array(copied) -> None:
    directory, abstract, _ = copied
    flip_a_bit(directory / "checkpoints" / "2")
    with pytest.raises(Damaged, match=r"checksum of (params|optimizer)/\S+ differs"):
        open_checkpoints(directory).restore(2, abstract)


def metadata_files(directory: Path) -> list[Path]:
    """The small files of checkpoint 2 that describe it."""
    step = directory / "checkpoints" / "2"
    files = sorted(path.relative_to(step) for path in step.rglob("*") if path.is_file())
    return [path for path in files if "d" not in path.parts and is_json((step / path).read_bytes())]


def is_json(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


@pytest.mark.parametrize(
    "garbage",
    [None, b"\xff\x00garbage", b"{}"]
    + [pytest.param(garbage, marks=pytest.mark.slow) for garbage in (b"", b"{", b"[1]", b"null")],
)
def test_metadata_that_is_garbage_or_gone_is_damage_or_of_no_account(
    saved, tmp_path: Path, garbage: bytes | None
) -> None:
    """There is never an unknown exception and never another number, and the run can save afterwards."""
    original, abstract, states = saved
    names = metadata_files(original)
    assert len(names) >= 2, names
    damaged = 0
    for number, name in enumerate(names):
        directory = tmp_path / str(number)
        shutil.copytree(original, directory)
        path = directory / "checkpoints" / "2" / name
        path.unlink()
        if garbage is not None:
            path.write_bytes(garbage)
        try:
            restored = open_checkpoints(directory).restore(2, abstract)
        except Damaged:
            damaged += 1
            assert_falls_back(directory, abstract, states)
        else:
            assert_bit_equal(restored, states[2])
            checkpoints = open_checkpoints(directory)
            checkpoints.save(3, states[1])
            checkpoints.close()
            assert open_checkpoints(directory).steps() == [1, 2, 3]
    assert damaged >= 1


def test_when_all_are_damaged_the_user_is_told(copied) -> None:
    directory, abstract, _ = copied
    for step in ("1", "2"):
        flip_a_bit(directory / "checkpoints" / step)
    told: list[str] = []
    with pytest.raises(UserError, match=r"All checkpoints .* damaged \(steps \[1, 2\]\)"):
        open_checkpoints(directory).restore_newest(abstract, told.append)
    assert len(told) == 2
    assert open_checkpoints(directory).steps() == [1, 2], "the next start must not take the run for a new one"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (TimeoutError(110, "Connection timed out"), Fault),
        (OSError(24, "Too many open files"), Fault),
        (ValueError("UNAVAILABLE: 503 from the bucket"), Fault),
        (PermissionError(13, "Permission denied"), PermissionError),
        (RuntimeError("Timeout waiting at barrier '_load_impl'"), Fault),  # the others are not there
    ],
    ids=["timeout", "files", "storage", "rights", "alone"],
)
def test_faults_of_the_storage_do_not_condemn_a_checkpoint(
    copied, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception]
) -> None:
    directory, abstract, states = copied

    def load(*_: Any) -> None:
        raise RuntimeError("orbax says less") from error

    with monkeypatch.context() as patch:
        patch.setattr(ocp, "load", load)
        with pytest.raises(raised):
            open_checkpoints(directory).restore_newest(abstract, pytest.fail)
    assert_bit_equal(open_checkpoints(directory).restore_newest(abstract, pytest.fail), states[2])


def test_a_run_that_is_only_read_is_left_as_it_is(copied) -> None:
    directory, abstract, states = copied
    flip_a_bit(directory / "checkpoints" / "2")
    told: list[str] = []
    read_only = Checkpoints(epath.Path(directory / "checkpoints"))
    assert_bit_equal(read_only.restore_newest(abstract, told.append), states[1])
    assert len(told) == 1 and read_only.steps() == [1, 2] and not (directory / "damaged").exists()


def test_what_a_killed_save_left_is_ignored_and_cleared_away(copied) -> None:
    directory, abstract, states = copied
    leftover = directory / "checkpoints" / "7.orbax-checkpoint-tmp"
    shutil.copytree(directory / "checkpoints" / "2", leftover)
    checkpoints = open_checkpoints(directory)
    assert checkpoints.steps() == [1, 2]
    assert_bit_equal(checkpoints.restore_newest(abstract, pytest.fail), states[2])
    checkpoints.save(3, states[1])
    checkpoints.close()
    assert checkpoints.steps() == [1, 2, 3] and not leftover.exists()
    assert_bit_equal(checkpoints.restore(3, abstract), states[1])


# ── Checksums ────────────────────────────────────────────────────────────────────────────────────────────────


def test_checksums_are_equal_on_every_mesh(saved) -> None:
    host = to_host(saved[2][1])
    found = []
    for shape in [(1, 1, 1), (8, 1, 1), (2, 2, 2)]:
        with use_mesh(*shape) as mesh:
            state = place(jax.device_get(saved[2][1]), make_parts(CONFIG, mesh).trainer.abstract)
            found.append(checksums(state))
    assert found[0] == found[1] == found[2]
    assert found[0].keys() == host.keys()


def test_checksums_are_the_formula() -> None:
    def mix(x: int) -> int:
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        return x ^ (x >> 16)

    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    bits = values.view(np.uint32).reshape(-1).tolist()
    expected = sum(mix((b + mix(i + 1)) % 2**32) for i, b in enumerate(bits)) % 2**32
    assert checksums({"a": jnp.asarray(values)}) == {"a": expected}


def test_checksums_see_swapped_rows_and_every_flipped_bit() -> None:
    values = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    right = checksums({"a": values})
    assert checksums({"a": values[[1, 0, *range(2, 16)]]}) != right
    assert checksums({"a": values[::-1].copy()}) != right
    for bit in range(0, 32 * values.size, 37):
        flipped = values.copy()
        flipped.view(np.uint32).reshape(-1)[bit // 32] ^= np.uint32(1 << bit % 32)
        assert checksums({"a": flipped}) != right, bit


def test_an_older_one_that_cannot_be_removed_is_left_to_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine may hold one of its files open on a shared disk; the new one is whole all the same."""
    checkpoints = Checkpoints(epath.Path(tmp_path) / "checkpoints", keep=2)
    state = {"step": jnp.int32(0)}

    def refuse(path: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    for step in (1, 2):
        checkpoints.save(step, state)
    with monkeypatch.context() as patch:
        patch.setattr(type(checkpoints.directory), "rmtree", refuse)
        checkpoints.save(3, state)
        checkpoints.wait()
    assert checkpoints.steps() == [1, 2, 3]
    checkpoints.save(4, state)
    checkpoints.close()
    assert checkpoints.steps() == [3, 4]
