"""The files that predict reads and writes: a record a line in, an answer a line out."""

import errno
import os
from pathlib import Path
from typing import Any

from etils import epath

from gpt1_jax.disk.inputs import LARGEST, decode, open_input, parse_object, read_lines
from gpt1_jax.errors import UserError


def read_records(path: epath.Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; empty lines may follow the last one.

    Raises:
        UserError: there is no such file, it has no end, it is not UTF-8, or a line, told by its number, is no JSON
            object; an empty line among the others would be one without a prediction, and all that follow would be one
            off.
    """
    records, empty, size = [], 0, 0
    with open_input(path, "--input", pipe=True) as file:
        for number, line in enumerate(read_lines(file, f"--input: {path}"), start=1):
            where = f"--input: line {number} of {path}"
            size += len(line)
            if size > LARGEST:
                raise UserError(
                    f"--input={path} has no end within {LARGEST // 2**30} GB, more than is held in memory at once; "
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
            records.append(parse_object(decode(line, where), where))
    return records


def check_output(output: epath.Path, source: epath.Path) -> None:
    """Refuses what could not be written, before there is any work, and what would be lost.

    Raises:
        UserError: the output is a directory or the input, or has no directory to lie in.
        OSError: its links or its name lead nowhere, or writing is not allowed.
    """
    if "://" in str(output):
        return
    path = Path(output)
    try:
        path.stat()
    except FileNotFoundError:  # it is made, where a link that hangs in the air leads
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


def exists_otherwise(output: epath.Path) -> bool:
    """Whether the output is there and no regular file."""
    return "://" not in str(output) and Path(output).exists() and not Path(output).is_file()
