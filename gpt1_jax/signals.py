"""Signals that ask a command to end: SIGTERM, SIGHUP and Ctrl-C are noted, and answered at the next safe place.

No handler raises, since jax discards what is raised in its callbacks. A thread hears a signal at once, even while the
main thread compiles; where nothing is to be saved and no safe place is near, it ends the process itself.
"""

import contextlib
import ctypes
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from gpt1_jax.errors import Stopped

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP", signal.SIGINT: "Ctrl-C"}
NOTHING_NEW = "before there was anything new to save"
GRACE = 1.0  # seconds to reach a safe place in, where there is nothing to save
ONE_PRESS = 0.1  # seconds; wrappers hand on the same Ctrl-C that the terminal sends


@dataclass
class _State:
    """What is known of a request to stop; the thread that listens and the main thread share it."""

    requested: signal.Signals | None = None
    heard: float = 0.0
    waiting_since: float = 0.0
    saves: bool = False
    leaving: bool = False
    tell_others: Callable[[], None] = lambda: None


_state = _State()


def listen() -> None:
    """Begins to note the signals, but for those that whoever started the command had it ignore, as nohup does."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in NAMES:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _note)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()


def listen_again() -> None:
    """Takes SIGTERM back from jax, which took it when several processes joined.

    A signal to this process is still handed on to jax's handler, whose part is to tell the other processes. Where it
    was to be ignored, it is again.
    """
    if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return
    libc = ctypes.CDLL(None)
    theirs, ours = ctypes.create_string_buffer(1024), ctypes.create_string_buffer(1024)  # struct sigaction
    libc.sigaction(signal.SIGTERM, None, theirs)
    signal.signal(signal.SIGTERM, _note)

    def tell_others() -> None:
        libc.sigaction(signal.SIGTERM, theirs, ours)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        libc.sigaction(signal.SIGTERM, ours, None)

    _state.tell_others = tell_others


def ignore() -> None:
    """Ends the listening: from here on a signal ends the process as it would any other."""
    for number in NAMES:
        if signal.getsignal(number) == _note:
            signal.signal(number, signal.SIG_DFL)


def requested() -> signal.Signals | None:
    """The signal that asked this process to stop."""
    return _state.requested


def ends_at_once() -> bool:
    """Whether a signal ends this process in a moment, with nothing to save."""
    return _state.requested is not None and not (_state.saves or _state.leaving)


def check() -> None:
    """A safe place of a command that has nothing to save.

    Raises:
        Stopped: a signal asked for it.
    """
    if _state.requested is not None:
        raise stopped(_state.requested, NOTHING_NEW)


def stopped(number: signal.Signals, how: str) -> Stopped:
    """What is raised to stop, with the line that the user reads; from now on only Ctrl-C hurries this process."""
    _state.leaving = True
    return Stopped(number, f"Stopped by {NAMES[number]} {how}; run the same command again to go on.")


@contextlib.contextmanager
def something_to_save() -> Iterator[None]:
    """Within, only the main thread ends the process, or a second Ctrl-C; and so it is after an error within."""
    _state.saves = True
    try:
        yield
    except BaseException:
        _state.leaving = True
        raise
    finally:
        _state.saves = False


def say(sentence: str) -> None:
    """Writes a line to standard error, if that is still there."""
    with contextlib.suppress(OSError):
        os.write(2, f"{sentence}\n".encode())


def _note(number: int, frame: FrameType | None) -> None:
    """Python's own handler has written the number to the pipe by now."""


def _watch(pipe: int) -> None:
    while True:
        ready, _, _ = select.select([pipe], [], [], None if _state.requested is None else 0.05)
        for number in os.read(pipe, 64) if ready else b"":
            if number in NAMES:
                _hear(signal.Signals(number))
        if _state.requested is None:
            continue
        if not ends_at_once():
            _state.waiting_since = time.monotonic()
        elif time.monotonic() - _state.waiting_since > GRACE:
            _leave(_state.requested, str(stopped(_state.requested, NOTHING_NEW)))


def _hear(number: signal.Signals) -> None:
    now = time.monotonic()
    if _state.requested is None:
        _state.requested, _state.heard, _state.waiting_since = number, now, now
        if _state.saves:
            again = "once more" if number == signal.SIGINT else "Ctrl-C"
            say(f"{NAMES[number]}: saving; {again} leaves without.")
        _state.tell_others()
    elif number == signal.SIGINT and now - _state.heard > ONE_PRESS:
        lost = _state.saves and not _state.leaving
        saving = "without saving; the same command goes on from the newest checkpoint" if lost else "at once"
        heard = "again" if _state.requested == number else f"after {NAMES[_state.requested]}"
        _leave(number, f"Ctrl-C {heard}: left {saving}.")


def _leave(number: signal.Signals, sentence: str) -> None:
    say(sentence)
    for stream in (1, 2):
        if os.isatty(stream):
            os.write(stream, b"\x1b[?25h")  # a progress bar hides the cursor
    os._exit(128 + number)
