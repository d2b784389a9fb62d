"""Paths as users write them."""

import errno
import os
from pathlib import Path

from etils import epath

from gpt1_jax.errors import UserError


def expand(path: epath.PathLike, name: str) -> epath.Path:
    """Replaces a `~` at the beginning of a path by the home directory.

    Args:
        path: a path of this machine or of a bucket, gs://….
        name: the field or flag that holds the path, for the error.

    Raises:
        UserError: the path is empty, as a shell makes it of a variable that is not set; or the home directory is
            unknown, and a directory named `~` would be made.
    """
    if not str(path):
        raise UserError(f"{name} is empty; name a path.")
    # "./~" is left alone too, though Path would take it for a home.
    if not str(path).startswith("~"):
        return epath.Path(path)
    expanded = epath.Path(path).expanduser()
    if str(expanded).startswith("~"):
        user = str(expanded).partition("/")[0]
        mend = "set the variable HOME" if user == "~" else "correct the user's name"
        raise UserError(
            f"{name}={path} begins with {user}, a home that is not known; {mend}, or write the whole path."
        )
    return expanded


def expand_local(path: epath.PathLike, name: str) -> Path:
    """Expands a path of this machine, as `expand` does."""
    return Path(expand(path, name))


def check_directory(directory: epath.PathLike, name: str) -> None:
    """Refuses a path that cannot be or become a directory to write in, before any work is done.

    Args:
        directory: of this machine, else it is not looked at.
        name: the field or flag that it is of, for the error.

    Raises:
        UserError: it, or what it is to lie in, is something else, or not to be written.
        OSError: the path leads nowhere.
    """
    if "://" in str(directory):
        return
    place = Path(directory)
    while not _is_there(place):
        place = place.parent
    if not place.is_dir():
        what = "a link that leads to no directory" if place.is_symlink() else "no directory"
        raise UserError(f"{name}={directory} cannot be made, since {place} is {what}; name another.")
    if not os.access(place, os.W_OK | os.X_OK):
        read_only = os.statvfs(place).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if read_only else errno.EACCES)
        raise UserError(f"{name}={directory} cannot be written in {place} ({reason}); name another.")


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True
