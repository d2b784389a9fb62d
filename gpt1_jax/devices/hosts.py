"""Several processes that train one model: joining them, waiting for each other, agreeing, failing together."""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from gpt1_jax.devices import roll_call
from gpt1_jax.devices.places import find_place
from gpt1_jax.errors import Fault, UserError
from gpt1_jax.output import print_line
from gpt1_jax.troubles import explain

T = TypeVar("T")

_PATIENCE = 24 * 3600 * 1000  # milliseconds; tokenizing a large corpus takes hours
_HEARTBEAT = 60  # seconds after which a process that is there, but stands still, is lost
_SENTENCE = 2000  # bytes of an error that all are told
_barriers = itertools.count()


@contextlib.contextmanager
def joined(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Iterator[None]:
    """Within its context this process trains with the others, if there are any; enter it before jax is used.

    When one of them is lost or fails, the others end as well, within seconds.

    Args:
        coordinator: HOST:PORT of process 0.
        num_processes: how many there are.
        process_id: which this is, from 0. What is None is found by `places.find_place`.

    Raises:
        UserError, Fault: as `places.find_place` and `roll_call.meet`.
    """
    place = find_place(coordinator, num_processes, process_id)
    if place is None:
        yield
        return
    with roll_call.meet(place):
        jax.distributed.initialize(
            place.coordinator,
            place.count,
            place.number,
            place.devices,
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
        yield


def alone() -> bool:
    """Whether this is the only process."""
    return jax.process_count() == 1


def first() -> bool:
    """Whether this is process 0, which alone writes what is written once."""
    return jax.process_index() == 0


def tell(sentence: str) -> None:
    """Prints a line, once for all processes."""
    if first():
        print_line(sentence)


def wait() -> None:
    """Returns when all processes are here."""
    if not alone():
        multihost.get_barrier_sync_fn()(key=f"gpt1_jax {next(_barriers)}", timeout_ms=_PATIENCE)


def together(work: Callable[[], T]) -> T:
    """Does a piece of work on every process; what fails on one fails on all, so that none waits for it forever.

    Raises:
        UserError, Fault: the work failed on another process, by wrong input or not; what failed here is raised as
            it is.
    """
    if alone():
        return work()
    result: Any = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as wrong:
        error = wrong
    wait()
    _raise_any(error)
    return result


def first_then_others(work: Callable[[], T]) -> T:
    """Like `together`, process 0 before the others: they find what it has left on a disk they share."""
    if alone():
        return work()
    early = together(work if first() else lambda: None)
    late = together((lambda: None) if first() else work)
    result: Any = early if first() else late
    return result


def on_first(work: Callable[[], T]) -> T | None:
    """Does a piece of work on process 0 alone; the others wait, and get None."""
    return together(work if first() else lambda: None)


def check_same(**facts: Any) -> None:
    """Refuses to go on where the processes were not given the same.

    Args:
        **facts: JSON values by the words that an error calls them.

    Raises:
        UserError: on all of them, naming what differs and on which processes.
    """
    if alone():
        return
    digests = [hashlib.sha256(json.dumps(fact, sort_keys=True).encode()).digest() for fact in facts.values()]
    table = np.stack([np.frombuffer(digest, np.uint8) for digest in digests])
    wait()
    found = multihost_utils.process_allgather(table)
    for number, name in enumerate(facts):
        others = [i for i in range(len(found)) if (found[i][number] != found[0][number]).any()]
        if others:
            raise UserError(
                f"{name} of process {', '.join(map(str, others))} is not that of process 0; start all processes with "
                "the same command, code and data."
            )


def code_version() -> dict[str, str]:
    """What must be equal for processes to compute the same: the versions of jax and of this package's source."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return {"jax": jax.__version__, "gpt1_jax": digest.hexdigest()}


def any_of(value: bool) -> bool:
    """Whether it is true on any process; all of them are to be here at about the same time."""
    return value if alone() else bool(multihost_utils.process_allgather(np.array(value)).any())


def _raise_any(error: Exception | None) -> None:
    mine = np.zeros(1 + _SENTENCE, np.uint8)
    told = error and (explain(error) or error)
    text = (f"{told}" or type(told).__name__).encode()[:_SENTENCE] if told else b""
    mine[0] = isinstance(told, UserError)  # final for all; else it may be tried again
    mine[1 : 1 + len(text)] = np.frombuffer(text, np.uint8)
    everyone = multihost_utils.process_allgather(mine)
    if error is not None:
        raise error
    for number, theirs in enumerate(everyone):
        if sentence := bytes(theirs[1:]).rstrip(b"\0").decode(errors="replace"):
            raise (UserError if theirs[0] else Fault)(f"Process {number}: {sentence}")
