"""Paths of this machine as orbax needs them, which etils' are not everywhere."""

import glob
import os
import stat
from collections.abc import Iterator

from etils import epath
from etils.epath.gpath import PosixGPath
from etils.epath.stat_utils import StatResult

from gpt1_jax.errors import UserError


class LiteralPath(PosixGPath):
    """A path whose own characters are no pattern, and whose file's owner needs no name.

    What is derived from it, by `/` or `parent`, is one too.
    """

    def glob(self, pattern: str) -> Iterator["LiteralPath"]:
        """The paths below this one that a pattern fits."""
        for found in glob.glob(os.path.join(glob.escape(str(self)), pattern)):  # noqa: PTH118, PTH207
            yield LiteralPath(found)

    def stat(self) -> StatResult:
        """What orbax asks of a file; etils asks for the owner's name as well, which a container may not know."""
        found = os.stat(self)  # noqa: PTH116
        return StatResult(
            is_directory=stat.S_ISDIR(found.st_mode),
            length=found.st_size,
            mtime=int(found.st_mtime),
            mode=found.st_mode,
        )


def check_storable(directory: epath.Path) -> None:
    """Refuses a directory whose name tensorstore does not take as it is.

    Raises:
        UserError: there is a backslash in it, a byte that is no UTF-8, or a scheme in the middle.
    """
    name = str(directory)
    try:
        name.encode()
        odd = "\\" in name or ":/" in name
    except UnicodeEncodeError:
        odd = True
    if odd:
        raise UserError(
            f"Checkpoints cannot be stored in {ascii(name)[1:-1]}: its name has a backslash, ':/' or bytes that are no "
            "UTF-8; rename the directory, or name another --workdir."
        )
