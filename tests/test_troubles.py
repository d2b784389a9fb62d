"""What errors of the machine mean: a sentence, and whether the user can mend it (exit code 2) or not (1)."""

import errno
import os
from typing import Any

import pytest
from etils import epath

from gpt1_jax.errors import Fault, UserError
from gpt1_jax.troubles import explain


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, Fault, "make room"),
        (errno.EDQUOT, Fault, "make room"),
        (errno.EIO, Fault, "run the same command again"),
        (errno.ESTALE, Fault, "run the same command again"),
        (errno.EMFILE, Fault, "ulimit -n"),
        (errno.EFBIG, Fault, "ulimit -f"),
        (errno.ENOENT, UserError, "name one that is there"),
        (errno.ENOTDIR, UserError, "directories"),
        (errno.EISDIR, UserError, "name a file"),
        (errno.EACCES, UserError, "name another path, or change the permissions of this one"),
        (errno.EROFS, UserError, "can be written"),
        (errno.ENAMETOOLONG, UserError, "shorter"),
        (errno.ELOOP, UserError, "links"),
    ],
)
def test_a_full_or_failing_disk_is_a_fault_and_a_wrong_path_the_users(
    number: int, kind: type[Exception], words: str
) -> None:
    told = explain(OSError(number, os.strerror(number), "/data/run"))
    assert type(told) is kind
    assert str(told).startswith(f"/data/run: {os.strerror(number)}; ") and words in str(told)


def test_a_full_disk_is_told_without_a_path_too() -> None:
    told = explain(OSError(errno.ENOSPC, "No space left on device"))
    assert isinstance(told, Fault) and str(told).startswith("No space left on device; make room")


def test_what_stands_behind_another_error_is_found() -> None:
    error = ValueError("orbax's")
    error.__cause__ = RuntimeError("tensorstore's")
    error.__cause__.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded", "/data/run")
    assert isinstance(explain(error), Fault)


def test_tensorstores_words_tell_a_full_disk() -> None:
    told = explain(
        ValueError('RESOURCE_EXHAUSTED: Error writing "/r/x" [OS error 28: ENOSPC No space left on device]')
    )
    assert isinstance(told, Fault) and "/r/x: No space left on device" in str(told)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7 TiB"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes."),
    ],
)
def test_too_little_memory_is_a_fault(error: Exception) -> None:
    told = explain(error)
    assert isinstance(told, Fault) and "There is not enough memory" in str(told)


@pytest.mark.parametrize("path", ["nosuch://bucket/run", "hdfs://host/run"])
def test_a_scheme_without_a_driver_is_a_wrong_path(path: str) -> None:
    with pytest.raises(Exception) as caught:
        epath.Path(path).exists()
    told = explain(caught.value)
    assert isinstance(told, UserError) and path.partition("/")[0] in str(told)


def test_what_is_nobodys_trouble_has_no_sentence() -> None:
    for error in (ZeroDivisionError(), KeyError("x"), ValueError("x"), RuntimeError("x"), ImportError("x")):
        assert explain(error) is None


@pytest.mark.parametrize("kind", [UserError, Fault])
@pytest.mark.parametrize("value", ["x" * 250_000, "x y " * 60_000, ["\n\x1b[31m\ud800"] * 9])
def test_a_message_is_one_printable_line_of_a_sane_length(kind: type[Exception], value: Any) -> None:
    text = str(kind(f"--prompt={value} is too long; cut it."))
    assert len(text) < 2500 and text.isprintable()
    assert text.startswith("--prompt=") and text.endswith("; cut it.")
