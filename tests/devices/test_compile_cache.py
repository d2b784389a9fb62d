"""The directory of compiled programs: this user's alone."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from gpt1_jax.devices.compile_cache import keep_compiled


@pytest.fixture(autouse=True)
def unset() -> Iterator[None]:
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def used() -> str | None:
    return jax.config.jax_compilation_cache_dir


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_it_is_made_for_its_user_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        keep_compiled(str(tmp_path / "new" / "cache"))
    finally:
        os.umask(before)
    directory = tmp_path / "new" / "cache" / "compiled"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert used() == str(directory)


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750])
def test_one_that_only_its_user_writes_to_is_used(tmp_path: Path, mode: int) -> None:
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled").chmod(mode)
    keep_compiled(str(tmp_path))
    assert used() == str(tmp_path / "compiled")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777])
def test_one_that_others_may_write_to_is_told_and_not_used(
    tmp_path: Path, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled").chmod(mode)
    keep_compiled(str(tmp_path))
    said = capsys.readouterr()
    assert used() is None
    assert f"{tmp_path}/compiled can be written by others" in said.err and not said.out


def test_one_of_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "compiled").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    keep_compiled(str(tmp_path))
    assert used() is None and "belongs to another user" in capsys.readouterr().err


def test_a_place_that_cannot_be_had_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "compiled").touch()
    keep_compiled(str(tmp_path))
    assert used() is None and "cannot be used" in capsys.readouterr().err


def test_a_bucket_is_used_as_it_is() -> None:
    keep_compiled("gs://bucket/cache")
    assert used() == "gs://bucket/cache/compiled"
