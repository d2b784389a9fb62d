"""Directories to be made: an obstacle is reported before any work is done."""

import os
from pathlib import Path

import pytest

from gpt1_jax.disk.paths import check_directory
from gpt1_jax.errors import UserError
from gpt1_jax.troubles import explain


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("name", ["there", "link", "new", "new/in/new", "there/new", "link/new"])
def test_what_mkdir_can_make_may_be_named(place: Path, name: str) -> None:
    check_directory(place / name, "--workdir")
    (place / name).mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(
    "name",
    [
        "file",
        "file/x",
        "file/x/y",
        "fifo",
        "dangling",
        "dangling/x",
        "loop",
        "loop/x",
        "x" * 300,
    ],
)
def test_what_it_cannot_make_is_refused_in_a_sentence(place: Path, name: str) -> None:
    before = sorted(place.iterdir())
    with pytest.raises((UserError, OSError)) as caught:
        check_directory(place / name, "--workdir")
    assert isinstance(told := explain(caught.value), UserError) and name in str(told)
    assert sorted(place.iterdir()) == before
    with pytest.raises(OSError):
        (place / name).mkdir(parents=True, exist_ok=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_refused(place: Path) -> None:
    (place / "there").chmod(0o500)
    for name in ("there", "there/new"):
        with pytest.raises(UserError, match="cannot be written in"):
            check_directory(place / name, "--workdir")


def test_a_buckets_directory_is_not_looked_at() -> None:
    check_directory("gs://nosuch/bucket", "--workdir")
