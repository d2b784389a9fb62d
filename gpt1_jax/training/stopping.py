"""The safe places of a training, at which it looks whether it is to stop; several processes stop at the same one."""

import itertools
import signal

from jax.experimental import multihost_utils

from gpt1_jax import signals
from gpt1_jax.devices import hosts
from gpt1_jax.errors import Stopped

_places = itertools.count(1)
_agreed = False


def asked() -> bool:
    """Whether to stop here.

    Several processes call it equally often, in the same order: of them any one may get the signal, and jax's
    protocol then finds the first place that none of them has passed.
    """
    global _agreed
    if hosts.alone():
        return signals.requested() is not None
    _agreed = _agreed or multihost_utils.reached_preemption_sync_point(next(_places))
    return _agreed


def stopped(how: str) -> Stopped:
    """What to raise where it was asked, `how` telling how the work is left; another process' signal is a SIGTERM."""
    return signals.stopped(signals.requested() or signal.SIGTERM, how)


def check() -> None:
    """A safe place within work that has nothing to save itself, such as an evaluation.

    Raises:
        Stopped: a signal asked for it.
    """
    if asked():
        raise stopped(signals.NOTHING_NEW)
