"""Where compiled programs are kept. They are native code: nobody else may put any there."""

import os
import stat
import sys
from pathlib import Path

import jax

from gpt1_jax.disk.paths import expand


def keep_compiled(cache_dir: str) -> None:
    """Keeps compiled programs in `cache_dir`, so that the next start finds them.

    On a disk the directory is this user's alone (mode 0700). One that others may write to is told and not used. In a
    bucket, it is for the bucket's owner to say who may.
    """
    directory = expand(cache_dir, "data.cache_dir") / "compiled"
    if "://" not in os.fspath(directory) and (reason := _unsafe(Path(directory))):
        print(
            f"Compiled programs are not kept: {directory} {reason}, and holds native code that is run; "
            "remove it, or name another data.cache_dir.",
            file=sys.stderr,
            flush=True,
        )
        return
    jax.config.update("jax_compilation_cache_dir", os.fspath(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _unsafe(directory: Path) -> str:
    """Makes the directory; why it is not to be trusted, or nothing."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        return f"cannot be had ({error.strerror})"
    if found.st_uid != os.geteuid():
        return f"belongs to another user ({found.st_uid})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others"
    return ""
