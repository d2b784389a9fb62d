"""Explains errors of the machine: in a sentence, and as the user's to fix (exit code 2) or not (exit code 1)."""

import errno
import os
import re
import traceback

from gpt1_jax.errors import Fault, UserError

# What to do about errors of disks and storage. The user can fix those that a path causes.
_PATHS = {
    errno.ENOENT: "name one that is there",
    errno.ENOTDIR: "name a path that leads through directories",
    errno.EISDIR: "name a file",
    errno.EEXIST: "name another",
    errno.ENOTEMPTY: "name another",
    errno.EACCES: "name another path, or change the permissions of this one",
    errno.EPERM: "name another path, or change the permissions of this one",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ELOOP: "its links lead back to themselves; name another",
    errno.EROFS: "name a path that can be written",
    errno.ENXIO: "name a file",
    errno.ENODEV: "name a file",
}
_ROOM = "make room and run the same command again"
_STORAGE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "raise the limit of a file's size (ulimit -f) and run the same command again",
    errno.EMFILE: "raise the limit of open files (ulimit -n) and run the same command again",
    errno.ENFILE: "close other programs' files and run the same command again",
}
_AGAIN = "the storage fails; run the same command again"


def explain(error: BaseException) -> UserError | Fault | None:
    """Returns the sentence for an error of disks, memory, drivers or the environment, or None for any other.

    orbax, tensorstore and others wrap errors in their own, so causes are followed down to the first.
    """
    while True:
        found = _explain(error)
        if found is not None or error.__cause__ is None:
            return found
        error = error.__cause__


def _explain(error: BaseException) -> UserError | Fault | None:
    text = " ".join(str(error).split())
    if isinstance(error, UserError | Fault):
        return error
    if isinstance(error, OSError):
        return _of_storage(error.errno, error.filename, text)
    # tensorstore words it this way.
    if found := re.search(r"\[?OS error (\d+)", text):
        path = re.search(r'"([^"]+)"', text)
        return _of_storage(int(found[1]), path and path[1], text)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in text):
        reason = f" ({text:.200})" if text else ""
        return Fault(
            f"There is not enough memory{reason}; take a smaller batch or model, or a machine with more memory."
        )
    # pathlib says this when it resolves a path.
    if isinstance(error, RuntimeError) and text.startswith("Symlink loop from"):
        return UserError(f"{text}: its links lead back to themselves; name another path.")
    return _of_driver(error, text) or _of_environment(error, text)


def _of_storage(number: int | None, path: object, text: str) -> UserError | Fault:
    reason = os.strerror(number) if number and number > 0 else text
    named = f"{os.fsdecode(path) if isinstance(path, bytes) else path}: {reason}" if path else reason
    if number in _PATHS and path:
        return UserError(f"{named}; {_PATHS[number]}.")
    return Fault(f"{named}; {_STORAGE.get(number or 0, _AGAIN)}.")


def _of_driver(error: BaseException, text: str) -> UserError | None:
    """Explains what etils says when it cannot open a path with a scheme, such as s3://."""
    if isinstance(error, KeyError) and (scheme := re.fullmatch(r"'(\w+://)'", text)):
        return UserError(
            f"{scheme[1]} is not a storage that can be opened; name a directory, or one on gs://."
        )
    if isinstance(error, ImportError) and re.match(r"Install \S+ to access", text):
        return UserError(
            f"A path names a storage whose driver is missing: {text.lower()}, or name a directory."
        )
    return None


def _of_environment(error: BaseException, text: str) -> UserError | Fault | None:
    """Explains what jax says when it cannot use a variable of the environment."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    frames = traceback.extract_tb(error.__traceback__)
    if "list of known backends" in text or (
        isinstance(error, AssertionError) and frames and frames[-1].filename.endswith("xla_bridge.py")
    ):
        return UserError(
            f"JAX_PLATFORMS={platforms} names nothing that this jax can use; set cpu, or unset the variable."
        )
    if isinstance(error, RuntimeError) and "Unable to initialize backend" in text:
        return Fault(f"jax cannot use the devices ({text:.300}); fix that and run the same command again.")
    if isinstance(error, ValueError) and (
        found := re.search(r"(?i)environment '(jax_\w+)'|for jax flag '?(jax_\w+)", text)
    ):
        name = (found[1] or found[2]).upper()
        return UserError(f"{name}={os.environ.get(name, '')} in the environment is wrong ({text}); unset it.")
    return None
