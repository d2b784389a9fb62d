"""The directory that a conversion writes, whole or not at all."""

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from gpt1_jax import signals
from gpt1_jax.errors import Fault, UserError

# The threads of a failed save have this many seconds to end.
_LATE_WRITERS = 30.0


def check_target(source: Path, target: Path) -> None:
    """Checks that the target is absent or an empty directory, outside IN and not below a file.

    Raises:
        UserError: it is not.
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
        raise UserError(f"OUT={target} lies in {nearest}, which is not a directory; name another path.")
    if Path(os.path.realpath(source)) in target.parents:
        raise UserError(f"OUT={target} lies in IN={source}; name a directory outside.")


@contextlib.contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """Yields a directory to write into, which becomes `target` when the block ends, or is removed if it raises.

    Raises:
        Stopped: a signal asked for it; nothing is left behind.
        OSError, Fault: raised by the block, with the name of `target`.
    """
    threads = set(threading.enumerate())
    parent = next(path for path in target.parents if path.exists())
    temporary = parent / f".{secrets.token_hex(8)}.tmp"
    with signals.something_to_save():
        try:
            temporary.mkdir()
            yield temporary
            # Files get the mode that the umask allows; safetensors lets nobody else read them.
            mode = temporary.stat().st_mode & 0o666
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

    A failed save leaves threads behind that still write, and they would recreate a directory that is removed too early.
    """
    deadline = time.monotonic() + _LATE_WRITERS
    for thread in set(threading.enumerate()) - threads:
        # A daemon may not be one of Python's own threads, and then nobody can wait for it.
        if not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
