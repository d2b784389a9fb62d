"""Processes that meet, and notice when one is lost, without any training."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from gpt1_jax.devices import company, places, roll_call
from gpt1_jax.devices.company import Company
from gpt1_jax.devices.places import Place
from gpt1_jax.devices.roll_call import meet
from gpt1_jax.errors import Fault, UserError

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def place(number: int, count: int, port: int, host: str = "localhost") -> Place:
    return Place(host, port, count, number, None, "--coordinator")


class Met(threading.Thread):
    """A process that meets the others, in a thread."""

    company: Company | None = None
    all: ClassVar[list["Met"]] = []

    def __init__(self, where: Place) -> None:
        super().__init__(daemon=True)
        self.where, self.error = where, None
        self.all.append(self)
        self.start()

    def run(self) -> None:
        try:
            self.company = meet(self.where)
        except Exception as error:
            self.error = error

    def part(self) -> None:
        """Closes the connections, as the end of a process would."""
        for line in self.company._lines if self.company else ():
            line.close()

    def outcome(self) -> BaseException | None:
        self.join(60)
        assert not self.is_alive()
        return self.error


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(places, "PATIENCE", 60)
    monkeypatch.setattr(roll_call, "REPORT_AFTER", 0.5)
    monkeypatch.setattr(roll_call, "REPORT_EVERY", 0.5)
    monkeypatch.setattr(roll_call, "NAME_PATIENCE", 0.1)
    monkeypatch.setattr(company, "VERDICT", 0.2)
    yield
    while Met.all:
        Met.all.pop().part()


@pytest.fixture
def in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the wait for tests in which a process does not come."""
    monkeypatch.setattr(places, "PATIENCE", 4)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_processes_meet_in_any_order(order: list[int]) -> None:
    port = free_port()
    met = []
    for number in order:
        met.append(Met(place(number, 3, port)))
        time.sleep(0.1)
    assert [each.outcome() for each in met] == [None] * 3


def test_the_port_is_free_again_for_jax() -> None:
    """The connections stay; nothing listens."""
    port = free_port()
    met = [Met(place(number, 2, port)) for number in range(2)]
    assert [each.outcome() for each in met] == [None] * 2
    with socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True):
        pass


@pytest.mark.usefixtures("in_vain")
def test_who_is_missing_is_told_and_ends_those_who_wait(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    met = [Met(place(number, 4, port)) for number in (0, 2)]
    for each in met:
        error = each.outcome()
        assert isinstance(error, Fault)
        assert str(error).startswith(f"processes 1 and 3 of 4 did not come to localhost:{port} within 4 s")
    told = capfd.readouterr().err
    for number in (0, 2):
        assert f"Process {number} is waiting for processes 1 and 3 of 4 at localhost:{port}" in told
    assert "To train alone, give --num_processes=1" in told


@pytest.mark.usefixtures("in_vain")
def test_an_absent_coordinator_is_told_and_is_a_fault(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    error = Met(place(1, 2, port)).outcome()
    assert isinstance(error, Fault) and f"Process 0 is not at localhost:{port} after 4 s" in str(error)
    assert "Process 1 is waiting for process 0" in capfd.readouterr().err


@pytest.mark.usefixtures("in_vain")
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"[" * 100_000])
def test_something_else_at_the_coordinators_address_is_not_process_0(answer: bytes) -> None:
    with socket.create_server(("localhost", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    with server.accept()[0] as connection:
                        connection.recv(1000)
                        connection.sendall(answer)
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        error = Met(place(1, 2, server.getsockname()[1])).outcome()
    assert isinstance(error, Fault) and "something else answers" in str(error)


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"3\n", b"\xff\xfe\n", b'{"process": 1}\n', b""]
)
def test_strangers_do_not_disturb_process_0(sent: bytes) -> None:
    port = free_port()
    first = Met(place(0, 2, port))
    for _ in range(50):
        try:
            with socket.create_connection(("localhost", port)) as stranger:
                stranger.sendall(sent)
                break
        except OSError:
            time.sleep(0.05)
    second = Met(place(1, 2, port))
    assert first.outcome() is None and second.outcome() is None


def test_a_process_that_left_before_the_start_may_come_again() -> None:
    port = free_port()
    first = Met(place(0, 3, port))
    time.sleep(0.2)
    with socket.create_connection(("localhost", port)) as early:
        early.sendall(json.dumps({"process": 1, "processes": 3, "host": "a"}).encode() + b"\n")
        assert b"host" in early.recv(1000)
    others = [Met(place(number, 3, port)) for number in (1, 2)]
    assert [each.outcome() for each in [first, *others]] == [None] * 3


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ([place(1, 2, 1), place(1, 2, 1)], "--process_id=1 was given twice"),
        ([place(1, 3, 1)], "--num_processes is 3 for process 1 and 2 for process 0"),
    ],
    ids=["twice", "count"],
)
def test_flags_that_do_not_fit_those_of_process_0_are_refused(others: list[Place], told: str) -> None:
    port = free_port()
    count = 2 if len(others) == 1 else 3  # process 0 waits on
    Met(place(0, count if "twice" in told else 2, port))
    time.sleep(0.2)
    met = [
        Met(Place("localhost", port, 3 if "twice" in told else x.count, x.number, None, "")) for x in others
    ]
    deadline = time.monotonic() + 30
    while not any(each.error for each in met) and time.monotonic() < deadline:
        time.sleep(0.05)
    errors = [each.error for each in met if each.error]
    assert len(errors) == 1 and isinstance(errors[0], UserError) and told in str(errors[0])


@pytest.mark.parametrize(("source", "raised"), [("--coordinator", UserError), ("", Fault)])
def test_a_port_in_use_is_a_sentence(source: str, raised: type[Exception]) -> None:
    """A user can mend a port of the user's choice; after a cluster's choice, another try may do."""
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        with pytest.raises(raised, match=rf"The port {port} .* is in use on this host; "):
            meet(Place("localhost", port, 2, 0, None, source))


@pytest.mark.parametrize("number", [0, 1])
def test_a_host_without_an_address_is_the_users_to_mend(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(UserError, match="--coordinator=nowhere:1234: the host nowhere has no address"):
        meet(place(number, 2, 1234, "nowhere"))


def test_a_name_server_that_fails_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(Fault, match="Temporary failure"):
        meet(place(1, 2, 1234, "nowhere"))


# ── Lost while they train: real processes, whose training is to wait ─────────────────────────────────────────

WORK = """
import os, sys, time
from gpt1_jax.errors import Fault, UserError
from gpt1_jax.devices import company, roll_call
from gpt1_jax.devices.company import Company
from gpt1_jax.devices.places import Place
number, count, port = map(int, sys.argv[1:4])
company.GRACE = 1
with roll_call.meet(Place("localhost", port, count, number, None, "--coordinator")):
    print("in", flush=True)
    command = sys.stdin.readline()
    exec(command)
print("out", flush=True)
"""


class Crew:
    """Processes that have met and each wait for a line of Python on their standard input."""

    def __init__(self, count: int) -> None:
        port = free_port()
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORK, str(number), str(count), str(port)],
                cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for number in range(count)
        ]  # fmt: skip
        for process in self.processes:
            assert process.stdout is not None and process.stdout.readline() == "in\n"

    def do(self, number: int, line: str) -> None:
        stdin = self.processes[number].stdin
        assert stdin is not None
        stdin.write(line + "\n")
        stdin.flush()

    def ends(self, number: int) -> tuple[int, str]:
        """Exit code and standard error, within seconds."""
        process = self.processes[number]
        assert process.stderr is not None
        return process.wait(timeout=60), process.stderr.read()


@pytest.fixture
def crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    """Starts three processes, unless a test asks for fewer."""
    crew = Crew(getattr(request, "param", 3))
    yield crew
    for process in crew.processes:
        # Its context waits, and closes the pipes.
        with process:
            process.kill()


@pytest.mark.parametrize("victim", [0, 2])
def test_the_others_end_when_one_is_killed_and_say_which(crew: Crew, victim: int) -> None:
    crew.processes[victim].kill()
    for number in {0, 1, 2} - {victim}:
        code, err = crew.ends(number)
        assert code == 1
        assert re.fullmatch(
            rf"error: Process {victim} on \S+ was lost. Start all processes again .* newest checkpoint.\n",
            err,
        )


def test_native_code_that_waits_for_ever_does_not_keep_one_alive(crew: Crew) -> None:
    crew.do(0, "import ctypes; ctypes.CDLL(None).pause()")
    time.sleep(0.5)
    crew.processes[1].kill()
    code, err = crew.ends(0)
    assert code == 1 and "Process 1 on" in err


def test_a_signal_to_all_is_what_ends_each_though_one_is_gone_first(crew: Crew) -> None:
    crew.do(2, "from gpt1_jax import signals; signals.listen(); os.kill(os.getpid(), 15); time.sleep(30)")
    time.sleep(0.3)
    crew.processes[0].kill()
    code, err = crew.ends(2)
    assert code == 143 and err.startswith("Stopped by SIGTERM")


@pytest.mark.parametrize("number", [0, 1])
def test_an_error_in_what_is_done_before_a_stop_is_told_in_its_place(crew: Crew, number: int) -> None:
    """A signal asked to save and stop, and the save failed."""
    stop = "signals.listen(); os.kill(os.getpid(), 15); time.sleep(0.2); raise Fault('disk')"
    program = f"from gpt1_jax import signals\nwith signals.something_to_save(): {stop}"
    crew.do(number, f"exec({program!r})")
    code, err = crew.ends(number)
    assert code == 1 and "Fault: disk" in err and "Stopped" not in err


def test_an_error_that_a_loss_caused_is_not_told_in_its_place(crew: Crew) -> None:
    """A collective fails at about the time at which the connection breaks."""
    crew.do(0, "time.sleep(1); raise ValueError('the connection was closed by the peer')")
    crew.do(1, "time.sleep(0.8); os.kill(os.getpid(), 9)")
    code, err = crew.ends(0)
    assert code == 1 and err.startswith("error: Process 1 on ") and "Traceback" not in err


@pytest.mark.parametrize(
    ("raised", "code"), [("UserError('no such field')", 2), ("Fault('disk')", 1), ("ValueError('odd')", 1)]
)
@pytest.mark.parametrize("number", [0, 1])
def test_the_error_of_one_ends_the_others_with_its_code(
    crew: Crew, number: int, raised: str, code: int
) -> None:
    crew.do(number, f"raise {raised}")
    assert crew.ends(number)[0] == code
    for other in {0, 1, 2} - {number}:
        found, err = crew.ends(other)
        assert found == code and err.startswith(f"error: Process {number}: ")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("crew", [2], indirect=True)
def test_the_error_of_one_ends_the_other_of_two_whatever_waits(crew: Crew, number: int) -> None:
    """The failed one is gone before the other's grace is over; threads of both wait for what does not come."""
    wait = "import threading; threading.Thread(target=time.sleep, args=(300,)).start(); "
    crew.do(1 - number, wait + "time.sleep(300)")
    crew.do(number, wait + "raise Fault('disk')")
    assert crew.ends(number)[0] == 1
    assert crew.ends(1 - number) == (1, f"error: Process {number}: disk\n")


def test_those_who_fail_together_each_say_why_themselves(crew: Crew) -> None:
    for number in range(3):
        crew.do(number, "raise UserError('all of us')")
    for number in range(3):
        _, err = crew.ends(number)
        assert "error: Process" not in err and "UserError: all of us" in err


def test_those_who_are_done_are_not_lost(crew: Crew) -> None:
    crew.do(1, "pass")
    crew.do(0, "time.sleep(1)")
    crew.do(2, "time.sleep(2)")
    assert [crew.ends(number) for number in range(3)] == [(0, "")] * 3


def test_an_abort_of_jax_is_a_sentence_and_a_fault(crew: Crew) -> None:
    """Its heartbeats may notice what no connection shows, such as a process that stands still."""
    crew.do(1, "os.abort()")
    code, err = crew.ends(1)
    assert code == 1 and err.startswith("error: Native code aborted")
