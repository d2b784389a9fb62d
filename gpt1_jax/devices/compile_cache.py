"""The cache of compiled programs. They are native code, so nobody else may add any."""

import os
import stat
import sys
from pathlib import Path

import jax

from gpt1_jax.disk.paths import expand


def keep_compiled(cache_dir: str) -> None:
    """Keeps compiled programs in `cache_dir`, where the next start finds them.

    On a disk, the directory belongs to this user alone (mode 0700); one that others may write to is reported and not
    used. In a bucket, the bucket's owner decides who may write.
    """
    directory = expand(cache_dir, "data.cache_dir") / "compiled"
    if "://" not in os.fspath(directory) and (reason := _unsafe(Path(directory))):
        print(
            f"Compiled programs are not kept: {directory} {reason}, and its native code would be run; "
            "remove it, or name another data.cache_dir.",
            file=sys.stderr,
            flush=True,
        )
        return
    jax.config.update("jax_compilation_cache_dir", os.fspath(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _unsafe(directory: Path) -> str:
    """Makes the directory; returns why it cannot be trusted, or ""."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    if found.st_uid != os.geteuid():
        return f"belongs to another user ({found.st_uid})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others"
    return ""
