"""The meeting of all processes before they train together.

Process 0 answers at the coordinator's address before JAX takes it over. So missing processes can be named, and a port
in use gives a sentence.
"""

import contextlib
import errno
import os
import selectors
import socket
import sys
import time
from typing import Any, cast

from gpt1_jax.devices import places
from gpt1_jax.devices.company import Company, Connection
from gpt1_jax.devices.places import Place
from gpt1_jax.errors import Fault, UserError

# All in seconds.
# A wait is reported after this time, and then at this interval.
REPORT_AFTER = 5
REPORT_EVERY = 60
# A host's name must have an address within this time. In Kubernetes a pod has none until it is made, so the wait is
# longer there.
NAME_PATIENCE = 15

_ALONE = "To train alone, give --num_processes=1."


def meet(place: Place) -> Company:
    """Waits until all processes have come.

    Raises:
        UserError: the coordinator's host has no address, its port cannot be used, or the processes' flags do not agree.
        Fault: some processes did not come.
    """
    _await_name(place)
    return Company(place, _gather(place) if place.number == 0 else [_report(place)])


class _Waiting:
    """How long to wait for something, and when to report that."""

    def __init__(self, patience: float) -> None:
        self._end, self._report = time.monotonic() + patience, time.monotonic() + REPORT_AFTER

    def over(self) -> bool:
        return time.monotonic() >= self._end

    def due(self) -> bool:
        """Returns whether a report is due now: after REPORT_AFTER, and then once in each REPORT_EVERY."""
        if time.monotonic() < self._report:
            return False
        self._report += REPORT_EVERY
        return True


def _print(sentence: str) -> None:
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
            _print(f"Process {place.number} waits for the host {place.host} of process 0 to have an address.")
        time.sleep(0.5)


def _listen(place: Place) -> socket.socket:
    """Opens the coordinator's port, before JAX takes it."""
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
        named = f"of {place.source}={place.coordinator}" if place.source else "that the cluster assigns"
        reason = (
            "is in use on this host"
            if error.errno == errno.EADDRINUSE
            else f"cannot be used ({error.strerror})"
        )
        mend = "name another" if place.source else "set JAX_COORDINATOR_PORT to another"
        raise (UserError if place.source else Fault)(
            f"The port {port} {named} {reason}; {mend}, the same for all processes."
        ) from error


def _gather(place: Place) -> list[Connection]:
    """Answers, as process 0, until all the others have come; any other connection is closed."""
    callers: set[Connection] = set()
    try:
        there = _await_all(place, callers)
        callers.difference_update(there.values())
    finally:
        for line in callers:
            line.close()
    for line in there.values():
        line.send(start=True)
    return [there[i] for i in sorted(there)]


def _await_all(place: Place, callers: set[Connection]) -> dict[int, Connection]:
    """Returns the connections to the other processes by their numbers; all that were opened are added to `callers`."""
    waiting = _Waiting(places.PATIENCE)
    there: dict[int, Connection] = {}
    with _listen(place) as server, selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while len(there) < place.count - 1:
            for key, _ in selector.select(0.5):
                if key.fileobj is server:
                    # The caller may have gone already.
                    with contextlib.suppress(OSError):
                        callers.add(line := Connection(server.accept()[0]))
                        selector.register(line, selectors.EVENT_READ)
                    continue
                line = cast(Connection, key.fileobj)
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
                    line.send(notice=sentence)
                _print(f"Process 0 is {sentence}")
    return there


def _greet(line: Connection, greeting: dict[str, Any], place: Place, there: dict[int, Connection]) -> str:
    """Admits a process that has come; returns why not, or ""."""
    number, count = greeting.get("process"), greeting.get("processes")
    if not isinstance(number, int) or not isinstance(greeting.get("host"), str):
        return "that is not a process of this training"
    if count != place.count:
        return f"--num_processes is {count} for process {number} and {place.count} for process 0; give all the same."
    if number in there:
        return f"--process_id={number} was given twice, here and on {there[number].host}; give each process its own."
    line.number, line.host = number, greeting["host"]
    there[number] = line
    line.send(host=socket.gethostname())
    return ""


def _report(place: Place) -> Connection:
    """Goes to process 0, as another process, and waits there until all have come."""
    waiting = _Waiting(places.PATIENCE)
    while True:
        reason = "it does not answer"
        try:
            line = Connection(socket.create_connection((place.host, place.port), timeout=2))
        except OSError as error:
            reason = error.strerror or "it does not answer"
        else:
            line.send(process=place.number, processes=place.count, host=socket.gethostname())
            admitted = False
            try:
                if admitted := _admitted(line, place):
                    return line
            finally:
                if not admitted:
                    line.close()
            reason = "something else answers, or process 0 ended"
        if waiting.over():
            raise Fault(
                f"Process 0 is not at {place.coordinator} after {places.PATIENCE} s ({reason}). {_ALONE}"
            )
        if waiting.due():
            _print(
                f"Process {place.number} is waiting for process 0 at {place.coordinator} ({reason}), "
                f"for {places.PATIENCE} s at most. {_ALONE}"
            )
        time.sleep(0.5)


def _admitted(line: Connection, place: Place) -> bool:
    """Returns whether process 0 is at the other end and all have come; False if the connection ends before."""
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        while True:
            # Process 0 answers at once.
            if not selector.select(None if line.number == 0 else REPORT_AFTER):
                return False
            messages = line.receive()
            for message in messages or []:
                if "refused" in message:
                    raise UserError(str(message["refused"]))
                if "failed" in message:
                    raise Fault(str(message["failed"]))
                if "notice" in message:
                    _print(f"Process {place.number} is {message['notice']}")
                if "host" in message:
                    line.number, line.host = 0, str(message["host"])
                if "start" in message:
                    return line.number == 0
            if messages is None:
                return False


def _name(numbers: list[int], count: int) -> str:
    """Names processes: 'process 1 of 4', 'processes 1, 2 and 3 of 4', 'processes 1, 2, 3, 4, 5 and 7 more of 32'."""
    words = [str(number) for number in numbers]
    if len(words) > 6:
        words[5:] = [f"{len(words) - 5} more"]
    listed = " and ".join([", ".join(words[:-1]), *words[-1:]] if words[1:] else words)
    return f"process{'es' if words[1:] else ''} {listed} of {count}" if words else ""
