"""Text in files: one document a file, or one a line of .jsonl."""

import glob
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

from etils import epath

from gpt1_jax.data.splits import SplitName
from gpt1_jax.disk import inputs
from gpt1_jax.disk.paths import expand
from gpt1_jax.errors import UserError

_NAME = "data.source"

# There are at most `_PARTS` parts, none smaller than `PART_BYTES` unless all of the text is.
_PARTS = 4096
PART_BYTES = 16 * 2**20


class _Piece(NamedTuple):
    """Bytes start:stop of a file, where a stop of None means the end; of JSON lines, those that begin there."""

    path: epath.Path
    start: int
    stop: int | None


class TextFiles:
    """The source `text:GLOB`: each `.txt` file is a document, and so is each line of a `.jsonl` file."""

    divided = False

    def __init__(self, pattern: str) -> None:
        """Finds the files that match.

        Raises:
            UserError: no file matches, or one that is neither text nor JSON lines.
        """
        self.name = f"text:{pattern}"
        self._paths = _find_files(pattern)
        if not self._paths:
            raise UserError(
                f"data.source={self.name!r} matches no file; set it to a glob of .txt or .jsonl files, such as "
                "'text:books/**/*.txt'."
            )
        for path in self._paths:
            if not path.name.lower().endswith((".txt", ".jsonl", ".txt.gz", ".jsonl.gz")):
                raise UserError(
                    f"data.source={self.name!r} matches {path}, expected only .txt, .jsonl, .txt.gz and .jsonl.gz "
                    "files; narrow the glob."
                )

    @cached_property
    def _parts(self) -> list[list[_Piece]]:
        """The files in order, gathered into parts that are large enough; a file of JSON lines may be divided."""
        lengths = [_size_and_time(path)[0] for path in self._paths]
        enough = max(PART_BYTES, sum(lengths) // _PARTS)
        parts: list[list[_Piece]] = [[]]
        size = 0
        for path, length in zip(self._paths, lengths, strict=True):
            cut = _holds_lines(path) and length > enough and not inputs.is_packed(path, _NAME)
            step = enough if cut else max(length, 1)
            for start in range(0, max(length, 1), step):
                stop = min(start + step, length)
                if size and size + stop - start > enough:
                    parts.append([])
                    size = 0
                parts[-1].append(_Piece(path, start, stop if stop < length else None))
                size += stop - start
        return parts

    def parts(self, split: SplitName) -> int:
        """Returns the number of parts, the same for either split."""
        return len(self._parts)

    def read(self, split: SplitName, part: int) -> Iterator[str]:
        """Yields the documents of a part.

        Raises:
            UserError: a file is not text; the error says where.
        """
        for piece in self._parts[part]:
            if _holds_lines(piece.path):
                with inputs.open_input(piece.path, _NAME) as file:
                    yield from _read_lines(file, piece)
            elif text := inputs.read_text(piece.path, _NAME):
                yield text

    def fingerprint(self) -> str:
        """Returns a hash that changes with the path, size or modification time of any file."""
        stats = [(str(path), *_size_and_time(path)) for path in self._paths]
        return hashlib.sha256(repr((self.name, stats)).encode()).hexdigest()


def _find_files(pattern: str) -> list[epath.Path]:
    """Returns the files that match, sorted by name, without hidden ones such as an editor's copies.

    Raises:
        UserError: one is a broken link, a pipe or a device.
    """
    if "://" in pattern:
        names = pattern.split("/")
        fixed = next((n for n, name in enumerate(names) if glob.has_magic(name)), len(names) - 1)
        matches = epath.Path("/".join(names[:fixed])).glob("/".join(names[fixed:]))
        return sorted(path for path in matches if path.is_file() and not path.name.startswith("."))
    found, expanded = [], str(expand(pattern, _NAME))
    # Path.glob would find hidden files too.
    names = glob.glob(expanded, recursive=True)  # noqa: PTH207
    for name in names or glob.glob(_escape_names(expanded), recursive=True):  # noqa: PTH207
        path = epath.Path(name)
        if stat.S_ISREG(mode := _stat(path).st_mode):
            found.append(path)
        elif not stat.S_ISDIR(mode):
            raise UserError(
                f"data.source='text:{pattern}' matches {path}, a pipe or a device; narrow the glob."
            )
    return sorted(found)


def _escape_names(pattern: str) -> str:
    """Returns a pattern whose longest existing prefix is escaped, so that brackets in it stand for themselves."""
    named = Path(pattern)
    there = next((parent for parent in (named, *named.parents) if os.path.lexists(parent)), Path())
    return str(Path(glob.escape(str(there))) / named.relative_to(there))


def _size_and_time(path: epath.Path) -> tuple[int, int]:
    """Returns the size in bytes and the modification time, in nanoseconds on a local disk."""
    if "://" in str(path):
        remote = path.stat()
        return remote.length, remote.mtime
    local = _stat(path)
    return local.st_size, local.st_mtime_ns


def _stat(path: epath.Path) -> os.stat_result:
    """Returns the status of a local file.

    Raises:
        UserError: there is none, as behind a broken link, or it cannot be read.
    """
    try:
        # epath's stat looks up the owner's name, and fails if the owner has none.
        return os.stat(path)  # noqa: PTH116
    except OSError as error:
        what = "a broken link" if Path(path).is_symlink() else f"which cannot be read ({error.strerror})"
        raise UserError(f"data.source matches {path}, {what}; fix it, or narrow the glob.") from error


def _holds_lines(path: epath.Path) -> bool:
    """Returns whether a file's name says that each line is a document."""
    return path.name.lower().removesuffix(".gz").endswith(".jsonl")


def _read_lines(file: IO[bytes], piece: _Piece) -> Iterator[str]:
    """Yields the texts of the JSON lines that begin in a piece of a file."""
    position = 0
    if piece.start:
        file.seek(piece.start - 1)
        begun = next(inputs.read_lines(file, f"{_NAME}: {piece.path}"), b"")
        # Skips to the first line that begins in the piece.
        position = piece.start - 1 + len(begun)
    for number, line in enumerate(inputs.read_lines(file, f"{_NAME}: {piece.path}"), start=1):
        if piece.stop is not None and position >= piece.stop:
            return
        where = f"line {number}" if piece.start == 0 else f"the line at byte {position}"
        if line.strip() and (text := _parse_json_line(line, f"{_NAME}: {where} of {piece.path}")):
            yield text
        position += len(line)


def _parse_json_line(line: bytes, where: str) -> str:
    record = inputs.parse_object(inputs.decode(line, where), where)
    text = record.get("text")
    if isinstance(text, str):
        return text
    found = f"{json.dumps(text)!s:.60} in its field 'text'" if "text" in record else "no field 'text'"
    raise UserError(f"{where} has {found}, expected a text there; fix the line.")
