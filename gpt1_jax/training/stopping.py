"""The safe places at which a training checks whether to stop; several processes stop at the same one."""

import itertools
import signal
from collections.abc import Iterable, Iterator
from typing import TypeVar

from jax.experimental import multihost_utils

from gpt1_jax import signals
from gpt1_jax.devices import hosts
from gpt1_jax.errors import Stopped

_Member = TypeVar("_Member")

_places = itertools.count(1)
_agreed = False


def asked() -> bool:
    """Returns whether to stop here.

    All processes must call this equally often and in the same order. Any of them may get the signal; jax's protocol
    then finds the first place that none of them has passed.
    """
    global _agreed
    if hosts.alone():
        return signals.requested() is not None
    _agreed = _agreed or multihost_utils.reached_preemption_sync_point(next(_places))
    return _agreed


def stopped(how: str) -> Stopped:
    """Returns the error to raise; `how` says how the work is left, and another process's signal counts as SIGTERM."""
    return signals.stopped(signals.requested() or signal.SIGTERM, how)


def check() -> None:
    """Marks a safe place within work that has nothing to save itself, such as an evaluation.

    Raises:
        Stopped: a signal asked for it.
    """
    if asked():
        raise stopped(signals.NOTHING_NEW)


def checked(members: Iterable[_Member]) -> Iterator[_Member]:
    """Yields the members, with a safe place before each, see `check`."""
    for member in members:
        check()
        yield member
