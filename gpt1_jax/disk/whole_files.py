"""Small files that hold either the old content or the new at every moment."""

import io
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import IO

from etils import epath


def write_whole(path: epath.PathLike, data: str | bytes | IO[bytes]) -> None:
    """Replaces or makes a regular file; anything else is opened and written, as a shell does.

    A symbolic link stays, and so do a FIFO and a device. A remote file, as on gs://, is replaced as its store does it.

    Args:
        path: where to write, in a directory that exists.
        data: the whole content, or an open file that holds it; text is written as UTF-8.

    Raises:
        OSError: with the name of `path`; a regular file is then unchanged.
    """
    data = data.encode() if isinstance(data, str) else data
    content = io.BytesIO(data) if isinstance(data, bytes) else data
    if "://" in str(path):
        with epath.Path(path).open("wb") as file:
            shutil.copyfileobj(content, file)
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
            with target.open("wb") as file:
                shutil.copyfileobj(content, file)
    # A failed write has no name in its error, and a failed rename has the temporary file's.
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _replace(target: Path, content: IO[bytes], mode: int | None) -> None:
    # Nobody can guess or plant this name. It omits the target's name, which may have the greatest length allowed.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    # "x" makes a new file or fails; it never follows an existing link.
    file = temporary.open("xb")
    try:
        with file:
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            shutil.copyfileobj(content, file)
            file.flush()
            # Otherwise a crash of the machine may leave the name on an empty file.
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
