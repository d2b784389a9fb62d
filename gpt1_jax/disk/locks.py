"""Locks that keep processes of one machine, or of one shared disk, apart; the system lifts them with their process."""

import errno
import fcntl

from absl import logging

# What file systems answer that have no locks: Lustre and NFS as they are often mounted, some of FUSE.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def lock(descriptor: int, path: object, wait: bool = False) -> bool:
    """Locks an open file or directory for this process; where the disk has no locks, a warning says so.

    Args:
        descriptor: of the open file.
        path: its name, for the warning.
        wait: for another process to let go of it.

    Returns:
        False where another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logging.warning(
            "%s cannot be locked, since its file system has no locks; start no second process that writes there.",
            path,
        )
    return True
