"""Processes that meet before they train together, and that notice within seconds when one of them is lost.

Process 0 answers at the coordinator's address before JAX takes it over: so who is missing can be told, and a port in
use is a sentence. Each of the others keeps its connection to process 0. The operating system ends the connections of a
process that dies and, by keep-alives, those to a machine that is gone. JAX notices a loss by heartbeats, after a minute
and a half, and aborts. Heartbeats of our own would mistake a process for lost: native code may hold the interpreter for
minutes.
"""

import atexit
import contextlib
import ctypes
import errno
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

from gpt1_jax.errors import Fault, UserError
from gpt1_jax.training import places
from gpt1_jax.training.places import Place
from gpt1_jax.troubles import explain

# All in seconds.
TELL_AFTER = 5  # of waiting; then it is told for whom
TELL_EVERY = 60
NAME_PATIENCE = (
    15  # for a host's name to have an address; a pod's in Kubernetes may have none for as long as it is made
)
SILENCE = 20  # of a machine that is then lost
GRACE = 10  # for the others to end by themselves once one has failed
VERDICT = 1  # for a broken connection to be noticed

_AGAIN = "Start all processes again with the same command: the run goes on from its newest checkpoint."
_ALONE = "To train alone, give --num_processes=1."
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
        # JAX would wait for the others at the end, and abort where process 0 does not wait for them.
        atexit.register(self._leave, code)

    def _aborted(self, number: int) -> NoReturn:
        time.sleep(3 * VERDICT)  # the watch ends this process if it knows why
        self._end(
            f"Native code aborted, as said above; it may be that another process does not answer. {_AGAIN}", 1
        )

    def _leave(self, code: int) -> NoReturn:
        if self._number == 0:
            self._deserted.wait(GRACE + VERDICT)
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
            while selector.get_map():
                wait = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
                for key, _ in selector.select(wait):
                    line: Any = key.fileobj
                    messages = line.receive()
                    line.left |= any(message.get("left") for message in messages or [])
                    news = [message for message in messages or [] if "failed" in message]
                    if messages is None:
                        selector.unregister(line)
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
                    if not self._failed.is_set():
                        self._end(verdict["failed"], verdict["code"])
        self._deserted.set()

    def _end(self, sentence: str, code: int) -> NoReturn:
        """Ends this process whatever its main thread does: it may wait for the lost one in native code, for ever."""
        self._ending.set()
        if self._number == 0:
            time.sleep(VERDICT)  # the others hear why before they miss process 0
        os.write(2, f"error: {sentence}\n".encode())
        os._exit(code)


def meet(place: Place) -> Company:
    """Waits until all processes are there.

    Raises:
        UserError: the coordinator's host has no address, its port cannot be had, or the processes' flags do not fit.
        Fault: some did not come.
    """
    _await_name(place)
    return Company(place, _gather(place) if place.number == 0 else [_report(place)])


class _Waiting:
    """How long something may still be waited for, and when to tell that it is."""

    def __init__(self, patience: float) -> None:
        self._end, self._tell = time.monotonic() + patience, time.monotonic() + TELL_AFTER

    def over(self) -> bool:
        return time.monotonic() >= self._end

    def due(self) -> bool:
        """Whether to tell now; true after TELL_AFTER, and then once each TELL_EVERY."""
        if time.monotonic() < self._tell:
            return False
        self._tell += TELL_EVERY
        return True


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _await_name(place: Place) -> None:
    """Waits until the coordinator's host has an address."""
    waiting = _Waiting(places.PATIENCE if "KUBERNETES_SERVICE_HOST" in os.environ else NAME_PATIENCE)
    while True:
        try:
            socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
            return
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            passing = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
        if waiting.over():
            named = (
                f"{place.source}={place.coordinator}"
                if place.source
                else f"The cluster's {place.coordinator}"
            )
            raise (UserError if place.source and not passing else Fault)(
                f"{named}: the host {place.host} has no address ({reason}); name process 0's host as the others see it."
            )
        if waiting.due():
            _tell(f"Process {place.number} waits for the host {place.host} of process 0 to have an address.")
        time.sleep(0.5)


def _listen(place: Place) -> socket.socket:
    """The coordinator's port, before JAX takes it."""
    host, port = "", place.port
    if address := os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
        host, port = places.split_address("JAX_COORDINATOR_BIND_ADDRESS", address)
    six = ":" in host or (not host and socket.has_dualstack_ipv6())
    try:
        family = socket.AF_INET6 if six else socket.AF_INET
        return socket.create_server(
            (host, port), family=family, dualstack_ipv6=six and not host, backlog=place.count
        )
    except OSError as error:
        named = f"of {place.source}={place.coordinator}" if place.source else "that the cluster gives"
        reason = (
            "is in use on this host"
            if error.errno == errno.EADDRINUSE
            else f"cannot be had ({error.strerror})"
        )
        mend = "name another" if place.source else "set JAX_COORDINATOR_PORT to another"
        raise (UserError if place.source else Fault)(
            f"The port {port} {named} {reason}; {mend}, the same for all processes."
        ) from error


def _gather(place: Place) -> list[Line]:
    """Process 0: answers until all the others are there."""
    waiting = _Waiting(places.PATIENCE)
    there: dict[int, Line] = {}
    with _listen(place) as server, selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while len(there) < place.count - 1:
            for key, _ in selector.select(0.5):
                if key.fileobj is server:
                    with contextlib.suppress(OSError):  # it may be gone already
                        selector.register(Line(server.accept()[0]), selectors.EVENT_READ)
                    continue
                line: Any = key.fileobj
                messages = line.receive()
                if messages and line.number < 0 and (refused := _greet(line, messages[0], place, there)):
                    line.send(refused=refused)
                    messages = None
                if messages is None:
                    selector.unregister(line)
                    line.close()
                    if there.get(line.number) is line:
                        del there[line.number]
            missing = _name([i for i in range(1, place.count) if i not in there], place.count)
            if missing and waiting.over():
                sentence = (
                    f"{missing} did not come to {place.coordinator} within {places.PATIENCE} s. {_ALONE}"
                )
                for line in there.values():
                    line.send(failed=sentence)
                raise Fault(sentence)
            if waiting.due():
                sentence = (
                    f"waiting for {missing} at {place.coordinator}, for {places.PATIENCE} s at most. {_ALONE}"
                )
                for line in there.values():
                    line.send(told=sentence)
                _tell(f"Process 0 is {sentence}")
    for line in there.values():
        line.send(start=True)
    return [there[i] for i in sorted(there)]


def _greet(line: Line, greeting: dict[str, Any], place: Place, there: dict[int, Line]) -> str:
    """Takes a process in that has come; else why not."""
    number, count = greeting.get("process"), greeting.get("processes")
    if not isinstance(number, int) or not isinstance(greeting.get("host"), str):
        return "that is no process of this training"
    if count != place.count:
        return f"--num_processes is {count} for process {number} and {place.count} for process 0; give all the same."
    if number in there:
        return f"--process_id={number} was given twice, here and on {there[number].host}; give each process its own."
    line.number, line.host = number, greeting["host"]
    there[number] = line
    line.send(host=socket.gethostname())
    return ""


def _report(place: Place) -> Line:
    """Another process: goes to process 0, and waits there until all have come."""
    waiting = _Waiting(places.PATIENCE)
    while True:
        reason = "it does not answer"
        try:
            line = Line(socket.create_connection((place.host, place.port), timeout=2))
        except OSError as error:
            reason = error.strerror or "it does not answer"
        else:
            line.send(process=place.number, processes=place.count, host=socket.gethostname())
            if _admitted(line, place):
                return line
            line.close()
            reason = "something else answers, or process 0 ended"
        if waiting.over():
            raise Fault(
                f"Process 0 is not at {place.coordinator} after {places.PATIENCE} s ({reason}). {_ALONE}"
            )
        if waiting.due():
            _tell(
                f"Process {place.number} is waiting for process 0 at {place.coordinator} ({reason}), "
                f"for {places.PATIENCE} s at most. {_ALONE}"
            )
        time.sleep(0.5)


def _admitted(line: Line, place: Place) -> bool:
    """Whether process 0 is at the other end, and all have come; false where the connection ends before."""
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        while True:
            if not selector.select(None if line.number == 0 else TELL_AFTER):
                return False  # process 0 answers at once
            messages = line.receive()
            for message in messages or []:
                if "refused" in message:
                    raise UserError(str(message["refused"]))
                if "failed" in message:
                    raise Fault(str(message["failed"]))
                if "told" in message:
                    _tell(f"Process {place.number} is {message['told']}")
                if "host" in message:
                    line.number, line.host = 0, str(message["host"])
                if "start" in message:
                    return line.number == 0
            if messages is None:
                return False


def _name(numbers: list[int], count: int) -> str:
    """Processes in words: 'process 1 of 4', 'processes 1, 2 and 3 of 4', 'processes 1, 2, 3, 4, 5 and 7 more of 32'."""
    words = [str(number) for number in numbers]
    if len(words) > 6:
        words[5:] = [f"{len(words) - 5} more"]
    listed = " and ".join([", ".join(words[:-1]), *words[-1:]] if words[1:] else words)
    return f"process{'es' if words[1:] else ''} {listed} of {count}" if words else ""
