"""Locks: one process at a time, and a disk without locks stops nobody."""

import errno
import fcntl
import logging
import os
from pathlib import Path

import pytest

from gpt1_jax.disk.locks import lock


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path):
    first, second = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    assert lock(first, tmp_path)
    assert not lock(second, tmp_path)
    os.close(first)
    assert lock(second, tmp_path, wait=True)
    os.close(second)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
):
    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING):
        assert lock(0, tmp_path)
    assert str(tmp_path) in caplog.text and "no locks" in caplog.text


def test_other_errors_are_not_taken_for_that(tmp_path: Path):
    with pytest.raises(OSError):
        lock(987654, tmp_path)
