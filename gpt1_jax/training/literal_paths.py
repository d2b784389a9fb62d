"""Local paths as orbax needs them; etils' paths do not always work."""

import glob
import os
import stat
from collections.abc import Iterator

from etils import epath
from etils.epath.gpath import PosixGPath
from etils.epath.stat_utils import StatResult

from gpt1_jax.errors import UserError


class LiteralPath(PosixGPath):
    """A path whose characters are never taken for a pattern, and whose file's owner needs no name.

    Paths derived from it, by `/` or `parent`, are such paths too.
    """

    def glob(self, pattern: str) -> Iterator["LiteralPath"]:
        """Yields the paths below this one that match a pattern."""
        for found in glob.glob(os.path.join(glob.escape(str(self)), pattern)):  # noqa: PTH118, PTH207
            yield LiteralPath(found)

    def stat(self) -> StatResult:
        """Returns what orbax asks about a file; etils also looks up the owner's name, which a container may lack."""
        found = os.stat(self)  # noqa: PTH116
        return StatResult(
            is_directory=stat.S_ISDIR(found.st_mode),
            length=found.st_size,
            mtime=int(found.st_mtime),
            mode=found.st_mode,
        )


def check_storable(directory: epath.Path) -> None:
    """Checks that tensorstore takes the name of a directory literally.

    Raises:
        UserError: the name has a backslash, bytes that are not UTF-8, or a scheme in the middle.
    """
    name = str(directory)
    try:
        name.encode()
        odd = "\\" in name or ":/" in name
    except UnicodeEncodeError:
        odd = True
    if odd:
        raise UserError(
            f"Checkpoints cannot be stored in {ascii(name)[1:-1]}: its name has a backslash, ':/' or bytes that are "
            "not UTF-8; rename the directory, or name another --workdir."
        )
