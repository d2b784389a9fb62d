"""Files of other programs: read with suspicion, written whole or not at all."""

import contextlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from gpt1_jax import signals
from gpt1_jax.errors import Fault, UserError

_SHOWN = 60
_JSON_BYTES = 64 * 2**20  # more is no description of a model
_LATE_WRITERS = 30.0  # seconds to end in, for the threads of a save that failed


def is_size(value: object) -> TypeGuard[int]:
    """Whether a value out of a file can be the length of an axis."""
    return type(value) is int and 0 < value < 2**31


def shown(value: object) -> str:
    """A value out of a file as an error tells it: on one line, and not too long a one."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it is missing, or no JSON.
    """
    try:
        if not path.is_file():  # nor a pipe, which might never end
            raise UserError(f"{path} is missing; name a directory that has it.")
        if path.stat().st_size > _JSON_BYTES:
            raise ValueError(f"it has more than {_JSON_BYTES:,} bytes")
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); restore it from where it came.") from error


def check_target(source: Path, target: Path) -> None:
    """Refuses what is there already and not an empty directory, and places within IN or a file.

    Raises:
        UserError: it is such a target.
        OSError: no file can have its name.
    """
    try:
        target.lstat()
        there = True
    except (FileNotFoundError, NotADirectoryError):
        there = False
    if there and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"OUT={target} exists already; name a directory that does not, or an empty one.")
    nearest = next(path for path in target.parents if path.exists())
    if not nearest.is_dir():
        raise UserError(f"OUT={target} lies in {nearest}, which is no directory; name another path.")
    if Path(os.path.realpath(source)) in target.parents:
        raise UserError(f"OUT={target} lies in IN={source}; name a directory outside.")


@contextlib.contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """A directory to write into, which becomes `target` when the block ends, and nothing when it raises.

    Raises:
        Stopped: a signal asked for it, and nothing is left.
        OSError, Fault: of the block, with the name of `target`.
    """
    threads = set(threading.enumerate())
    parent = next(path for path in target.parents if path.exists())
    temporary = parent / f".{secrets.token_hex(8)}.tmp"
    with signals.something_to_save():
        try:
            temporary.mkdir()
            yield temporary
            mode = temporary.stat().st_mode & 0o666  # as the umask has it; safetensors lets nobody else read
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(mode)
            signals.check()
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.rename(target)
        except OSError as error:
            error.filename, error.filename2 = str(target), None
            raise
        except Fault as error:
            raise Fault(str(error).replace(str(temporary), str(target))) from error
        finally:
            if temporary.exists():
                _wait_for_others(threads)
                shutil.rmtree(temporary, ignore_errors=True)


def _wait_for_others(threads: set[threading.Thread]) -> None:
    """Waits until all threads but these have ended.

    A save that fails leaves threads behind that go on writing, and make a directory again that is removed before.
    """
    deadline = time.monotonic() + _LATE_WRITERS
    for thread in set(threading.enumerate()) - threads:
        # A daemon may be none of Python's own threads, for which nobody can wait.
        if not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
