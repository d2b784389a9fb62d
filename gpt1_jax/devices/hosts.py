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

# A barrier waits for this many milliseconds, since tokenizing a large corpus takes hours.
_PATIENCE = 24 * 3600 * 1000
# A process that is connected but makes no progress is lost after this many seconds.
_HEARTBEAT = 60
# All processes receive at most this many bytes of an error.
_SENTENCE = 2000
_barriers = itertools.count()


@contextlib.contextmanager
def joined(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Iterator[None]:
    """Within its context, this process trains with the others, if there are any; enter it before jax is used.

    If a process is lost or fails, the others end within seconds.

    Args:
        coordinator: HOST:PORT of process 0.
        num_processes: the number of processes.
        process_id: the number of this process, from 0. `places.find_place` supplies whatever is None.

    Raises:
        UserError, Fault: as in `places.find_place` and `roll_call.meet`.
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
    """Returns whether this is the only process."""
    return jax.process_count() == 1


def first() -> bool:
    """Returns whether this is process 0, the only one to write what is written once."""
    return jax.process_index() == 0


def tell(sentence: str) -> None:
    """Prints a line once for all processes."""
    if first():
        print_line(sentence)


def wait() -> None:
    """Waits until all processes have come here."""
    if not alone():
        multihost.get_barrier_sync_fn()(key=f"gpt1_jax {next(_barriers)}", timeout_ms=_PATIENCE)


def together(work: Callable[[], T]) -> T:
    """Does a piece of work on every process; if it fails on one it fails on all, so that none waits for ever.

    Raises:
        UserError, Fault: the work failed on another process, by wrong input or otherwise. An error on this process is
            raised unchanged.
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
    """Like `together`, but process 0 works first, so that the others find its files on a shared disk."""
    if alone():
        return work()
    early = together(work if first() else lambda: None)
    late = together((lambda: None) if first() else work)
    result: Any = early if first() else late
    return result


def on_first(work: Callable[[], T]) -> T | None:
    """Does a piece of work only on process 0, while the others wait and get None."""
    return together(work if first() else lambda: None)


def check_same(**facts: Any) -> None:
    """Checks that all processes were given the same.

    Args:
        **facts: JSON values, by the words that an error uses for them.

    Raises:
        UserError: values differ; raised on all processes, naming what differs and on which processes.
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
                f"{name} of process {', '.join(map(str, others))} differs from that of process 0; start all processes "
                "with the same command, code and data."
            )


def code_version() -> dict[str, str]:
    """Returns what must be equal if processes are to compute the same: the versions of jax and of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return {"jax": jax.__version__, "gpt1_jax": digest.hexdigest()}


def any_of(value: bool) -> bool:
    """Returns whether a value is true on any process; all processes must call this at about the same time."""
    return value if alone() else bool(multihost_utils.process_allgather(np.array(value)).any())


def of_first(value: int) -> int:
    """Returns the value that process 0 has; all processes must call this at about the same time."""
    return value if alone() else int(multihost_utils.broadcast_one_to_all(np.array(value)))


def _raise_any(error: Exception | None) -> None:
    mine = np.zeros(1 + _SENTENCE, np.uint8)
    known = error and (explain(error) or error)
    text = (f"{known}" or type(known).__name__).encode()[:_SENTENCE] if known else b""
    # A UserError is final for all processes; after anything else another try may succeed.
    mine[0] = isinstance(known, UserError)
    mine[1 : 1 + len(text)] = np.frombuffer(text, np.uint8)
    everyone = multihost_utils.process_allgather(mine)
    if error is not None:
        raise error
    for number, theirs in enumerate(everyone):
        if sentence := bytes(theirs[1:]).rstrip(b"\0").decode(errors="replace"):
            raise (UserError if theirs[0] else Fault)(f"Process {number}: {sentence}")
