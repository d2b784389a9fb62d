"""Commands that train start over in huge pages: once, with what they were given, only where that means something."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux")
_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_PROGRAM = """
import os, sys
from gpt1_jax.huge_pages import use_huge_pages

print("begins", flush=True)
use_huge_pages()
print(os.getpid(), sys.argv[1:], sys.flags.utf8_mode, os.environ["GLIBC_TUNABLES"], sys.stdin.read())
"""


def start(*flags: str, **environment: str) -> tuple[int, list[str]]:
    """Returns the process number of the program above, and what it prints."""
    environment = {
        name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"
    } | environment
    with subprocess.Popen(
        [sys.executable, "-X", "utf8", "-c", _PROGRAM, *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        printed, _ = process.communicate("input")
    assert process.returncode == 0
    return process.pid, printed.splitlines()


def test_a_command_starts_over_once_as_the_same_process() -> None:
    pid, printed = start("--a=b c", "ü")
    assert printed == ["begins", "begins", f"{pid} ['--a=b c', 'ü'] 1 glibc.malloc.hugetlb=1 input"]


def test_what_the_user_has_set_stays() -> None:
    pid, printed = start("x", GLIBC_TUNABLES="glibc.malloc.check=0")
    assert printed == ["begins", f"{pid} ['x'] 1 glibc.malloc.check=0 input"]


@pytest.mark.skipif(
    not _MODE.exists() or "[madvise]" not in _MODE.read_text(), reason="Linux gives none, or to all"
)
def test_what_is_large_then_lies_in_huge_pages() -> None:
    program = """
from gpt1_jax.huge_pages import use_huge_pages

use_huge_pages()
text = b"x" * 2**28
print(open("/proc/self/smaps").read())
"""
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert (
        sum(map(int, re.findall(r"AnonHugePages: +(\d+) kB", printed))) > 2**14
    )  # 16 of 256 MiB: not every page can be a huge one
