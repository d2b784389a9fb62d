"""What an error in reading a checkpoint means: damage, a failing disk, or another process."""

import os
import re

from gpt1_jax.errors import WRONG_PATHS, Fault

# Errors with these words come from the storage or the network, not from the checkpoint.
_PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED")


class Damaged(Exception):
    """A checkpoint on disk differs from what was saved."""


class LeftAlone(Damaged):
    """Another process failed to read a checkpoint, and reports why."""


def judged(error: BaseException, step: int) -> Exception:
    """Returns what an error in reading a checkpoint means."""
    if isinstance(error, Damaged):
        return error
    reason = reason_of(error)
    first = _first(error)
    if isinstance(first, PermissionError):
        return first
    gone = isinstance(first, (FileNotFoundError, *WRONG_PATHS))
    if (isinstance(first, OSError) and not gone) or any(word in reason for word in _PASSING):
        return Fault(f"Checkpoint {step} cannot be read now ({reason}); run the same command again.")
    return LeftAlone(reason) if "barrier" in reason.lower() else Damaged(reason)


def _first(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def reason_of(error: BaseException) -> str:
    """Returns the first cause of an error in a line."""
    error = _first(error)
    # tensorstore's long lines end this way.
    if number := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(number[1]))
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
