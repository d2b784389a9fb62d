"""Small files: whole at every moment; only regular files are replaced."""

import contextlib
import errno
import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from etils import epath

from gpt1_jax.disk import whole_files
from gpt1_jax.disk.whole_files import write_whole


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("data, content", [("one ▁\n", "one ▁\n".encode()), (b"\x00\xff", b"\x00\xff")])
def test_a_file_is_made_and_replaced(tmp_path: Path, data: str | bytes, content: bytes):
    for _ in range(2):
        write_whole(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == content
        assert _names(tmp_path) == ["file"]


def test_the_longest_name_is_written(tmp_path: Path):
    write_whole(tmp_path / ("n" * 255), "x")
    assert (tmp_path / ("n" * 255)).read_text() == "x"


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path):
    (tmp_path / "target").write_text("much that was there")
    (tmp_path / "link").symlink_to("target")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_a_fifo_is_written_and_stays(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "fifo").read_bytes()))
    reader.start()
    write_whole(tmp_path / "fifo", "through")
    reader.join(10)
    assert read == [b"through"]
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


def test_a_planted_temporary_file_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "theirs").write_text("keep")
    (tmp_path / "out.tmp").symlink_to("theirs")
    write_whole(tmp_path / "out", "x")
    assert (tmp_path / "theirs").read_text() == "keep"

    # even where the name was guessed
    monkeypatch.setattr(whole_files.secrets, "token_hex", lambda _: "guessed")
    (tmp_path / ".guessed.tmp").symlink_to("theirs")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "out", "y")
    assert (tmp_path / "theirs").read_text() == "keep"
    assert (tmp_path / "out").read_text() == "x"


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path, mask: int, mode: int):
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_a_replaced_file_keeps_its_mode(tmp_path: Path):
    (tmp_path / "file").touch(0o640)
    write_whole(tmp_path / "file", "x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_read_only_directory_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("old")

    def refuse(path: Path, *_: str) -> None:  # as for anybody but root
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(Path, "open", refuse)
        write_whole(tmp_path / "file", "new")
    assert (caught.value.errno, caught.value.filename) == (errno.EROFS, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "old"


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(OSError) as caught:
        write_whole(tmp_path / "file", "new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "old"
    assert _names(tmp_path) == ["file"]


def test_a_remote_file_is_written_by_its_store(monkeypatch: pytest.MonkeyPatch):
    written: dict[str, bytes] = {}

    class Remote:
        def __init__(self, path: epath.PathLike) -> None:
            self._path = str(path)

        @contextlib.contextmanager
        def open(self, mode: str) -> Iterator[io.BytesIO]:
            assert mode == "wb"
            file = io.BytesIO()
            yield file
            written[self._path] = file.getvalue()

    monkeypatch.setattr(whole_files.epath, "Path", Remote)
    write_whole("gs://bucket/run/config.json", "x")
    assert written == {"gs://bucket/run/config.json": b"x"}
