"""The other processes of a training: connections to them, and a watch that ends this one when one of them is lost.

Each process but the first keeps its connection to process 0. The operating system closes the connections of a process
that dies and, through keep-alives, those to a machine that is gone. JAX notices a loss by heartbeats, after a minute
and a half, and then aborts. Heartbeats of our own could take a live process for lost, since native code may hold the
interpreter for minutes.
"""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NoReturn, Self

from gpt1_jax import signals
from gpt1_jax.devices.places import Place
from gpt1_jax.errors import UserError
from gpt1_jax.troubles import explain

# All in seconds.
# A machine that is silent for this long is lost.
SILENCE = 20
# Once a process has failed, the others have this long to end by themselves.
GRACE = 10
# A broken connection is noticed within this time.
VERDICT = 1

_AGAIN = "Start all processes again with the same command: the run goes on from its newest checkpoint."
# The longest message, in bytes.
_LONGEST = 65536


class Connection:
    """A connection that carries messages, each a line of JSON.

    Attributes:
        number, host: those of the process at the other end, once they are known.
        left: whether that process has said goodbye.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Takes an open connection, and asks the operating system to watch it."""
        self.number, self.host, self.left = -1, "", False
        self._socket, self._rest = connection, b""
        connection.settimeout(SILENCE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        pause = max(1, SILENCE // 4)
        options = {
            "TCP_KEEPIDLE": pause,
            "TCP_KEEPINTVL": pause,
            "TCP_KEEPCNT": 3,
            "TCP_USER_TIMEOUT": 1000 * SILENCE,
        }
        for name, value in options.items():
            # Not every system has all of these options.
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def fileno(self) -> int:
        """Returns the file descriptor, for selectors."""
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        """Sends a message; if the other end is gone, `receive` reports that."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """Returns the messages that have come, or None if the connection has ended or carries something else."""
        try:
            data = self._socket.recv(_LONGEST)
            *lines, self._rest = (self._rest + data).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except (OSError, ValueError, RecursionError):
            return None
        ours = len(self._rest) < _LONGEST and all(isinstance(message, dict) for message in messages)
        return messages if data and ours else None

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()


class Company:
    """The other processes, watched for as long as this one trains with them.

    Its context is the training. A process that leaves it by an error tells the others why; a lost process ends them.
    """

    def __init__(self, place: Place, lines: Iterable[Connection]) -> None:
        """Takes process 0's connections to all others, or another process's connection to process 0."""
        self._number, self._lines = place.number, list(lines)
        self._failed, self._deserted, self._ending = threading.Event(), threading.Event(), threading.Event()

    def __enter__(self) -> Self:
        # If JAX's own watch aborts in native code, this process still ends with a sentence and a code.
        self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._on_abort)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception):
            self._say(left=True)
            return
        # A failure here may follow from the loss of a process; the watch then ends this process and says why.
        if self._ending.wait(VERDICT):
            time.sleep(2 * VERDICT)
        self._failed.set()
        known = explain(error) or error
        code = 2 if isinstance(known, UserError) else 1
        reason = f"{known}" or type(known).__name__
        self._say(left=True, failed=f"Process {self._number}: {reason}"[:2000], code=code, grace=GRACE)
        threading.Thread(target=self._leave, args=(code,), name="leave").start()

    def _aborted(self, number: int) -> NoReturn:
        # If the watch knows the reason, it ends this process meanwhile.
        time.sleep(3 * VERDICT)
        self._end(
            f"Native code aborted, as said above; another process may have stopped answering. {_AGAIN}", 1
        )

    def _leave(self, code: int) -> NoReturn:
        """Ends this process once its main thread has reported the error.

        Otherwise JAX would wait for the other processes, and abort if process 0 does not wait for them. Threads that
        save could also wait for them for ever.
        """
        if self._number == 0:
            self._deserted.wait(GRACE + VERDICT)
        threading.main_thread().join(5 * VERDICT)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _say(self, **message: Any) -> None:
        for line in self._lines:
            line.send(**message)

    def _watch(self) -> None:
        """Reads what the others say, and ends this process if one is lost or has failed."""
        verdict: dict[str, Any] = {}
        deadline = float("inf")
        with selectors.DefaultSelector() as selector:
            for line in self._lines:
                selector.register(line, selectors.EVENT_READ)
            # When all are gone, the deadline in a message of theirs may still lie ahead.
            while selector.get_map() or deadline < float("inf"):
                wait = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
                for key, _ in selector.select(wait):
                    line: Any = key.fileobj
                    messages = line.receive()
                    line.left |= any(message.get("left") for message in messages or [])
                    news = [message for message in messages or [] if "failed" in message]
                    if messages is None:
                        selector.unregister(line)
                        if not selector.get_map():
                            self._deserted.set()
                        if not line.left:
                            lost = f"Process {line.number} on {line.host} was lost. {_AGAIN}"
                            news = [{"failed": lost, "code": 1, "grace": 0}]
                    if news and not verdict:
                        verdict = news[0]
                        deadline = time.monotonic() + verdict["grace"]
                        if self._number == 0:
                            self._say(**verdict)
                if time.monotonic() >= deadline:
                    deadline = float("inf")
                    if not (self._failed.is_set() or signals.ends_at_once()):
                        self._end(verdict["failed"], verdict["code"])

    def _end(self, sentence: str, code: int) -> NoReturn:
        """Ends this process even if its main thread waits for the lost one in native code."""
        self._ending.set()
        if self._number == 0:
            # The others should learn the reason before they miss process 0.
            time.sleep(VERDICT)
        os.write(2, f"error: {sentence}\n".encode())
        os._exit(code)
