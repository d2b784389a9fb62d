"""Small files that hold either the old content or the new at every moment."""

import os
import secrets
import stat
from pathlib import Path

from etils import epath


def write_whole(path: epath.PathLike, data: str | bytes) -> None:
    """Replaces or makes a regular file; anything else is opened and written, as a shell does.

    A symbolic link stays, and so do a FIFO and a device. A remote file, as on gs://, is replaced as its store does it.

    Args:
        path: where to write, in a directory that exists.
        data: the whole content; text is written as UTF-8.

    Raises:
        OSError: with the name of `path`; a regular file is then unchanged.
    """
    content = data.encode() if isinstance(data, str) else data
    if "://" in str(path):
        epath.Path(path).write_bytes(content)
        return
    target = Path(path)
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        mode = None
    try:
        if mode is None or stat.S_ISREG(mode):
            _replace(target, content, mode)
        else:
            target.write_bytes(content)
    # A failed write has no name in its error, and a failed rename has the temporary file's.
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _replace(target: Path, content: bytes, mode: int | None) -> None:
    # Nobody can guess or plant this name. It omits the target's name, which may have the greatest length allowed.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    # "x" makes a new file or fails; it never follows an existing link.
    file = temporary.open("xb")
    try:
        with file:
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            file.write(content)
            file.flush()
            # Otherwise a crash of the machine may leave the name on an empty file.
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
