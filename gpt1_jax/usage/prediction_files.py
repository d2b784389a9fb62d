"""The files that predict reads and writes: one record per line in, one answer per line out."""

import contextlib
import errno
import json
import marshal
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from etils import epath

from gpt1_jax import signals
from gpt1_jax.disk.inputs import LARGEST, decode, open_input, parse_object, read_lines
from gpt1_jax.disk.paths import expand
from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.rows import find_reader, read_csv, read_tsv

_TABLES = {".csv": read_csv, ".tsv": read_tsv}


@dataclass(frozen=True)
class Records:
    """The checked records of a file, in a file without a name.

    Attributes:
        count: how many there are.
        fields: the names of their fields.
        read: yields them, each time it is called.
    """

    count: int
    fields: set[str]
    read: Callable[[], Iterator[Mapping[str, Any]]]


@contextlib.contextmanager
def checked_records(path: epath.Path) -> Iterator[Records]:
    """Yields the records of a file, of which only one is in memory at once.

    Raises:
        UserError: as in `read_records`.
    """
    with tempfile.TemporaryFile() as file:
        count, fields = 0, set()
        for record in read_records(path):
            # Unlike JSON, this can be read again wherever it could be written, however deep a record is nested.
            marshal.dump(record, file)
            count += 1
            fields |= record.keys()

        def read() -> Iterator[dict[str, Any]]:
            file.seek(0)
            return (marshal.load(file) for _ in range(count))

        yield Records(count, fields, read)


def read_records(path: epath.Path) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects of a file, one per line, or the rows of a table; empty lines may follow the last one.

    An empty line among the others would get no prediction, and would shift all that follow, so it is an error.

    Raises:
        UserError: the file does not exist, is too large, or is not UTF-8; or a line is empty or not a JSON object,
            which the error gives by its number; or a table is not as `tasks.rows` reads it.
    """
    if (read := find_reader(Path(path), _TABLES)) is not None:
        if "://" in str(path):
            raise UserError(
                f"--input={path} is a table, which is read from a disk only; copy it to this machine."
            )
        yield from (dict(row.fields) for row in read(Path(path)))
        return
    empty, size = 0, 0
    with open_input(path, "--input", pipe=True) as file:
        for number, line in enumerate(read_lines(file, f"--input: {path}"), start=1):
            where = f"--input: line {number} of {path}"
            size += len(line)
            if size > LARGEST:
                raise UserError(
                    f"--input={path} has no end within {LARGEST // 2**30} GB, more than is kept on the disk at once; "
                    "split it up."
                )
            if not line.strip():
                empty = empty or number
                continue
            if empty:
                raise UserError(
                    f"--input: line {empty} of {path} is empty, and others follow; remove it, so that each line of the "
                    "output belongs to the same line of the input."
                )
            yield parse_object(decode(line, where), where)


def open_output(target: str, source: epath.PathLike) -> epath.Path:
    """Returns the path of the output; checks, before any work is done, that it can be written and destroys nothing.

    Args:
        target: what --output names.
        source: the file of --input.

    Raises:
        UserError: the output is a directory or the input, or its directory does not exist.
        OSError: its links or its name lead nowhere, or writing is not allowed.
    """
    output = expand(target, "--output")
    if target.endswith("/"):
        raise UserError(f"--output={target} names a directory; name a file in it.")
    if "://" in str(output):
        return output
    path = Path(output)
    try:
        path.stat()
    # The file will be made; a broken link is followed to where it leads.
    except FileNotFoundError:
        parent = Path(os.path.realpath(path)).parent
        if not parent.is_dir():
            raise UserError(f"--output={output} lies in no directory; make {parent}.") from None
        allowed = os.access(parent, os.W_OK)
    else:
        if path.is_dir():
            raise UserError(f"--output={output} is a directory; name a file in it.")
        given = Path(source)
        if path.is_file() and given.is_file() and path.samefile(given):
            raise UserError(f"--output={output} is the file of --input, which would be lost; name another.")
        allowed = os.access(path, os.W_OK) and (not path.is_file() or os.access(path.parent, os.W_OK))
    if not allowed:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return output


def write_output(output: epath.Path, data: IO[bytes]) -> None:
    """Writes the output whole, at a safe place of a command that has had nothing to save so far.

    Raises:
        Stopped: a signal asked the command to stop before.
        OSError: as in `write_whole`.
    """
    signals.check()
    # Writing to a pipe without a reader may wait for ever; a file must not be left half-written.
    with contextlib.nullcontext() if is_pipe(output) else signals.something_to_save():
        write_whole(output, data)


def write_answers(output: epath.Path, answers: Iterable[Any]) -> int:
    """Writes answers whole, a line each, once there are all; until then they lie in a file without a name, beside it.

    Returns:
        How many there are.
    """
    beside = None if "://" in str(output) or is_pipe(output) else Path(output).resolve().parent
    count = 0
    with tempfile.TemporaryFile(dir=beside) as file:
        for answer in answers:
            line = json.dumps(answer).encode() + b"\n"
            try:
                file.write(line)
            # A full disk is told by the name of what was to be written.
            except OSError as error:
                error.filename = str(output)
                raise
            count += 1
        file.seek(0)
        write_output(output, file)
    return count


def is_pipe(output: epath.Path) -> bool:
    """Returns whether the output exists and is not a regular file."""
    return "://" not in str(output) and Path(output).exists() and not Path(output).is_file()
