"""Reads users' files: unpacks them, checks that they are UTF-8 and JSON, and limits their size.

Every file that a user names is read here. An endless file, a device, a pipe that nobody writes to, or a gzip file that
unpacks to a thousand times its size is thus refused before it fills the memory.
"""

import codecs
import gzip
import io
import json
import os
import re
import select
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from etils import epath

from gpt1_jax.errors import UserError

# This many bytes, say of one document, may be held in memory at once.
LARGEST = 4 * 2**30
LONGEST_LINE = 256 * 2**20
# A gzip file may always unpack to this many bytes, and beyond them to this many times its size, which is ten times
# what text would.
_PACKED_BYTES = 256 * 2**20
_PACKED_RATIO = 200
# A pipe must have a writer within this time.
_PIPE_SECONDS = 10.0

# Half of a surrogate pair, as JSON spells it.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_GZIP = b"\x1f\x8b"
# A short line of text may have as many; U+0000 is a character.
_FEW_ZEROS = 7
# Files that are sometimes taken for text. For the first bytes of each: what it is, and how to make text of it.
_NO_TEXT = {
    b"\xff\xfe\x00\x00": ("UTF-32", "convert it to UTF-8, say with iconv -f UTF-32 -t UTF-8"),
    b"\x00\x00\xfe\xff": ("UTF-32", "convert it to UTF-8, say with iconv -f UTF-32 -t UTF-8"),
    b"\xff\xfe": ("UTF-16", "convert it to UTF-8, say with iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("UTF-16", "convert it to UTF-8, say with iconv -f UTF-16 -t UTF-8"),
    b"PK\x03\x04": ("a zip archive", "unpack it"),
    b"BZh": ("packed with bzip2", "unpack it, say with bunzip2"),
    b"\xfd7zXZ\x00": ("packed with xz", "unpack it, say with unxz"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "unpack it, say with unzstd"),
    b"PAR1": ("a Parquet file", "write its rows as .jsonl"),
    b"%PDF": ("a PDF file", "write its text into a .txt file"),
}


@contextmanager
def open_input(path: epath.PathLike, name: str, pipe: bool = False) -> Iterator[IO[bytes]]:
    """Opens a file for reading; a gzip file, whatever its name, is unpacked.

    Args:
        path: the file, which may be in a bucket.
        name: the field or flag that names the file, for errors.
        pipe: whether a pipe or a device, such as /dev/stdin, is allowed; if so, a pipe may wait for its writer.

    Raises:
        UserError: the file is missing or cannot be read, at once or later; it is not a regular file; nobody writes to
            the pipe; it unpacks to far more than its size.
    """
    try:
        with ExitStack() as files:
            file: Any
            if "://" in str(path):
                file = files.enter_context(epath.Path(path).open("rb"))
            else:
                file = files.enter_context(_open_local(Path(path), name, pipe))
            if str(path).lower().endswith(".gz") or _peek(file, len(_GZIP)) == _GZIP:
                file = io.BufferedReader(_Unpacked(file, f"{name}: {path}"), 2**20)
            yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{name}: {path} cannot be read ({reason}); fix that, or name another file."
        ) from error


def is_packed(path: epath.PathLike, name: str) -> bool:
    """Returns whether a file is packed by gzip, judging by its first bytes or, in a bucket, by its name."""
    if str(path).lower().endswith(".gz") or "://" in str(path):
        return str(path).lower().endswith(".gz")
    with _open_local(Path(path), name, pipe=False) as file:
        return _peek(file, len(_GZIP)) == _GZIP


def read_bytes(path: epath.PathLike, name: str, pipe: bool = False) -> bytes:
    """Reads a whole file, unpacked.

    Raises:
        UserError: as in `open_input`, or the file is larger than `LARGEST`.
    """
    too_large = UserError(
        f"{name}: {path} has no end within {LARGEST // 2**30} GB, more than is held in memory at once; split it up "
        "(each line of a .jsonl file, which is read line by line, can be a document)."
    )
    with open_input(path, name, pipe) as file:
        # As in `_open_local`, not epath's stat.
        if "://" not in str(path) and os.stat(path).st_size > LARGEST:  # noqa: PTH116
            raise too_large
        parts, size = [], 0
        while part := file.read(2**24):
            parts.append(part)
            size += len(part)
            if size > LARGEST:
                raise too_large
        return b"".join(parts)


def read_text(path: epath.PathLike, name: str, pipe: bool = False) -> str:
    """Reads the text of a file, without a byte-order mark.

    Raises:
        UserError: as in `read_bytes` and `decode`.
    """
    return decode(read_bytes(path, name, pipe), f"{name}: {path}")


def read_lines(file: IO[bytes], where: str) -> Iterator[bytes]:
    """Yields the lines of an open file, each with its line break; `where` names the file in errors.

    Raises:
        UserError: a line is longer than `LONGEST_LINE`.
    """
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"{where} has a line of more than {LONGEST_LINE // 2**20} MB, longer than a record can be; write one "
                "record per line."
            )
        yield line


def standard_lines() -> Iterator[str]:
    """Yields the lines of standard input as they come, without line breaks.

    Raises:
        UserError: a line is too long or not UTF-8, or there is no standard input.
    """
    return (line for _, line in text_lines(standard_input(), "standard input"))


def standard_input() -> IO[bytes]:
    """Returns standard input.

    Raises:
        UserError: there is none.
    """
    if sys.stdin is None:
        raise UserError("There is no standard input; give one, such as `< FILE`.")
    return sys.stdin.buffer


def text_lines(file: IO[bytes], name: str) -> Iterator[tuple[str, str]]:
    """Yields for each line of an open file where it is, as errors say it, and the line without its line break.

    Raises:
        UserError: a line is too long or not UTF-8, or cannot be read.
    """
    title = name[0].upper() + name[1:]
    try:
        for number, line in enumerate(read_lines(file, title), start=1):
            where = f"Line {number} of {name}"
            text = decode(line, where)
            # Only the first byte-order mark is dropped; one at the start of a later line is a character.
            mark = "\ufeff" if number > 1 and line.startswith(codecs.BOM_UTF8) else ""
            yield where, mark + text.removesuffix("\n")
    except OSError as error:
        raise UserError(f"{title} cannot be read ({error.strerror}); give a file of text.") from error


def decode(data: bytes, where: str) -> str:
    """Decodes UTF-8 without a byte-order mark; `where` names the bytes in errors.

    Raises:
        UserError: the bytes are not UTF-8 text; the error says what they are, if their beginning shows it.
    """
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        for start, (kind, mend) in _NO_TEXT.items():
            if data.startswith(start):
                raise UserError(f"{where} is {kind}, not UTF-8 text; {mend}.") from error
        raise UserError(
            f"{where} is not UTF-8 text (at byte {error.start}); convert it, say with iconv -f LATIN1 -t UTF-8."
        ) from error
    if (zeros := data[:1000].count(0)) > max(len(data[:1000]) // 5, _FEW_ZEROS):
        raise UserError(
            f"{where} is UTF-16 or not text at all ({zeros} of its first bytes are zero); convert it to UTF-8, "
            "say with iconv -f UTF-16LE -t UTF-8."
        )
    return text


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Parses a JSON object; `where` names its line or file in errors.

    Raises:
        UserError: the text is not JSON, is nested too deep, is not an object, gives a name two values, or spells half
            of a surrogate pair, which is not text.
    """
    try:
        record = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise UserError(f"{where} is JSON nested too deep to be read; fix it.") from None
    except ValueError as error:
        raise UserError(
            f'{where} is not JSON ({error}); write an object, such as {{"text": "…"}}.'
        ) from error
    if not isinstance(record, dict):
        raise UserError(f"{where} is {text[:2000].strip()!r:.80}, expected a JSON object; fix it.")
    if _SURROGATE.search(text):
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError):
            raise UserError(
                f"{where} spells half of a surrogate pair (\\ud800 to \\udfff); fix it."
            ) from None
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes a dictionary.

    Raises:
        ValueError: a name has two different values, one of which would be lost.
    """
    record = dict(pairs)
    if len(record) < len(pairs):
        for name, value in pairs:
            if record[name] != value:
                raise ValueError(f"{name!r:.80} has two values")
    return record


class _Unpacked(io.RawIOBase):
    """The content of a gzip file, up to more than text can be."""

    def __init__(self, packed: IO[bytes], where: str) -> None:
        self._packed, self._where = packed, where
        self._file = gzip.GzipFile(fileobj=packed)
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._file.readinto(buffer)
        self._size += count
        # A pipe cannot say how much of it was read.
        large = self._size > _PACKED_BYTES and self._packed.seekable()
        if large and self._size > _PACKED_RATIO * self._packed.tell():
            raise UserError(
                f"{self._where} unpacks to more than {_PACKED_RATIO} times its size, as no text does; unpack it "
                "yourself if it is one."
            )
        return count


def _open_local(path: Path, name: str, pipe: bool) -> IO[bytes]:
    # epath's stat looks up the owner's name, and fails if the owner has none.
    mode = os.stat(path).st_mode  # noqa: PTH116
    if stat.S_ISDIR(mode):
        raise UserError(f"{name}: {path} is a directory; name a file.")
    if stat.S_ISREG(mode):
        return path.open("rb")
    if not pipe:
        raise UserError(f"{name}: {path} is not a regular file but a pipe or a device; name a file.")
    # Without O_NONBLOCK, opening would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if stat.S_ISFIFO(mode):
            _await(descriptor, f"{name}: {path}")
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _await(descriptor: int, where: str) -> None:
    """Waits until a pipe has something to read, or a writer that may yet write.

    Raises:
        UserError: nobody writes to the pipe.
    """
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    if waiting.poll(_PIPE_SECONDS * 1000):
        return
    try:
        empty = os.read(descriptor, 1) == b""
    # Somebody has it open for writing.
    except BlockingIOError:
        empty = False
    if empty:
        raise UserError(
            f"{where} is a pipe to which nobody writes; start the command that does, or name a file."
        )


def _peek(file: Any, count: int) -> bytes:
    """Returns the next bytes of an open file without moving its position."""
    return file.peek(count)[:count] if hasattr(file, "peek") else b""
