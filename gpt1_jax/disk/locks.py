"""Locks between processes of one machine or one shared disk; the system releases them when a process ends."""

import errno
import fcntl

from absl import logging

# The answers of file systems without locks: Lustre and NFS as they are often mounted, and some of FUSE.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def lock(descriptor: int, path: object, wait: bool = False) -> bool:
    """Locks an open file or directory for this process, or warns if the disk has no locks.

    Args:
        descriptor: the open file's.
        path: the file's name, for the warning.
        wait: whether to wait until another process releases it.

    Returns:
        False if another process holds the lock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logging.warning(
            "%s cannot be locked, because its file system has no locks; start no second process that writes there.",
            path,
        )
    return True
