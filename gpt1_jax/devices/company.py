"""The other processes of a training: connections to them, and a watch that ends this one when one of them is lost.

Each process but the first keeps its connection to process 0. The operating system ends the connections of a process
that dies and, by keep-alives, those to a machine that is gone. JAX notices a loss by heartbeats, after a minute and a
half, and aborts. Heartbeats of our own would mistake a process for lost: native code may hold the interpreter for
minutes.
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
SILENCE = 20  # of a machine that is then lost
GRACE = 10  # for the others to end by themselves once one has failed
VERDICT = 1  # for a broken connection to be noticed

_AGAIN = "Start all processes again with the same command: the run goes on from its newest checkpoint."
_LONGEST = 65536  # bytes of a message


class Line:
    """A connection over which messages go, each a line of JSON.

    Attributes:
        number, host: of the process at its other end, once they are known.
        left: whether that process has said goodbye.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Takes an open connection, and lets the operating system look after it."""
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
            if hasattr(socket, name):  # not all systems have all of them
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        """Sends a message. That the other end is gone is no error here: `receive` tells it."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None at the end of the connection, or where it does not bring messages."""
        try:
            data = self._socket.recv(_LONGEST)
            *lines, self._rest = (self._rest + data).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except (OSError, ValueError, RecursionError):
            return None
        ours = len(self._rest) < _LONGEST and all(isinstance(message, dict) for message in messages)
        return messages if data and ours else None

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()


class Company:
    """The other processes, watched for as long as this one trains with them.

    Its context is the training. Who leaves it by an error tells the others why; who is lost ends them.
    """

    def __init__(self, place: Place, lines: Iterable[Line]) -> None:
        """Takes process 0's connections to all others, or another process's to process 0."""
        self._number, self._lines = place.number, list(lines)
        self._failed, self._deserted, self._ending = threading.Event(), threading.Event(), threading.Event()

    def __enter__(self) -> Self:
        # JAX's own watch aborts in native code: then, too, this process ends with a sentence and a code.
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
        # What failed here may be the consequence of a loss: then the watch ends this process, and says why.
        if self._ending.wait(VERDICT):
            time.sleep(2 * VERDICT)
        self._failed.set()
        told = explain(error) or error
        code = 2 if isinstance(told, UserError) else 1
        reason = f"{told}" or type(told).__name__
        self._say(left=True, failed=f"Process {self._number}: {reason}"[:2000], code=code, grace=GRACE)
        threading.Thread(target=self._leave, args=(code,), name="leave").start()

    def _aborted(self, number: int) -> NoReturn:
        time.sleep(3 * VERDICT)  # the watch ends this process if it knows why
        self._end(
            f"Native code aborted, as said above; it may be that another process does not answer. {_AGAIN}", 1
        )

    def _leave(self, code: int) -> NoReturn:
        """Ends this process once its main thread has told the error.

        JAX would wait for the others at the end, and abort where process 0 does not wait for them; and threads that
        save may wait for them for ever.
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
        """Reads what the others say, and ends this process where one is lost or has failed."""
        verdict: dict[str, Any] = {}
        deadline = float("inf")
        with selectors.DefaultSelector() as selector:
            for line in self._lines:
                selector.register(line, selectors.EVENT_READ)
            # When all are gone what one of them said may still have to be waited for.
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
        """Ends this process whatever its main thread does: it may wait for the lost one in native code, for ever."""
        self._ending.set()
        if self._number == 0:
            time.sleep(VERDICT)  # the others hear why before they miss process 0
        os.write(2, f"error: {sentence}\n".encode())
        os._exit(code)
