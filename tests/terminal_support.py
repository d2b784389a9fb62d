"""A terminal without a screen, for what programs write to one."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator


def run_in_terminal(program: str, columns: int, kind: str = "xterm") -> str:
    """Returns everything that a program writes to a terminal of this width and kind."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=environment | {"TERM": kind}
    ):
        os.close(theirs)
        written = b"".join(_read(ours))
    os.close(ours)
    return written.decode()


def _read(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(descriptor, 2**16)
        # Linux says so at the end.
        except OSError:
            return
        if not part:
            return
        yield part
