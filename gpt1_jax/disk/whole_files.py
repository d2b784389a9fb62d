"""Small files that are the old or the new one at every moment."""

import os
import secrets
import stat
from pathlib import Path

from etils import epath


def write_whole(path: epath.PathLike, data: str | bytes) -> None:
    """Replaces a regular file, or makes one; what else the path names is opened and written, as a shell does.

    A symbolic link stays, and so do a FIFO and a device. A remote file, as on gs://, is whole by its store's own rule.

    Args:
        path: where; its directory is there.
        data: all of the file; a text is written as UTF-8.

    Raises:
        OSError: with the name of `path`; a regular file is then as it was.
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
    except OSError as error:  # which has no name where writing failed, or the temporary file's
        error.filename, error.filename2 = str(path), None
        raise


def _replace(target: Path, content: bytes, mode: int | None) -> None:
    # A name that nobody can guess or plant; without the target's own, which may be as long as names can be.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    file = temporary.open("xb")  # made here, or an error: never a link that was there
    try:
        with file:
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            file.write(content)
            file.flush()
            # else a crash of the machine may leave the name on an empty file
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
