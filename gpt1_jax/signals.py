"""Signals that ask a command to end: SIGTERM, SIGHUP and Ctrl-C are noted, and obeyed at the next safe place.

No signal handler raises, since jax discards exceptions in its callbacks. A thread notices a signal at once, even while
the main thread compiles. If there is nothing to save and no safe place is near, that thread ends the process.
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
from typing import Any

from gpt1_jax.errors import Stopped
from gpt1_jax.wording import fitted

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP", signal.SIGINT: "Ctrl-C"}
NOTHING_NEW = "before there was anything new to save"
# With nothing to save, the main thread has this many seconds to reach a safe place.
GRACE = 1.0
# Goes to the beginning of a terminal's line and empties it.
_CLEAR = "\r\x1b[K"
# Wrappers pass on the Ctrl-C that the terminal sends too; within this many seconds the two count as one.
ONE_PRESS = 0.1


@dataclass
class _State:
    """What is known about a request to stop, shared by the listening thread and the main thread."""

    requested: signal.Signals | None = None
    heard: float = 0.0
    waiting_since: float = 0.0
    saves: bool = False
    leaving: bool = False
    tell_others: Callable[[], None] = lambda: None


_state = _State()


def listen() -> None:
    """Begins to note the signals, except those that the command's parent made it ignore, as nohup does."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in NAMES:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _note)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()


def listen_again() -> None:
    """Takes SIGTERM back from jax, which claims it when several processes join.

    A signal to this process is still passed on to jax's handler, which notifies the other processes. If SIGTERM was
    ignored before, it is ignored again.
    """
    if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return
    libc = ctypes.CDLL(None)
    # Each buffer holds a struct sigaction.
    theirs, ours = ctypes.create_string_buffer(1024), ctypes.create_string_buffer(1024)
    libc.sigaction(signal.SIGTERM, None, theirs)
    signal.signal(signal.SIGTERM, _note)

    def tell_others() -> None:
        libc.sigaction(signal.SIGTERM, theirs, ours)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        libc.sigaction(signal.SIGTERM, ours, None)

    _state.tell_others = tell_others


def ignore() -> None:
    """Stops listening: from here on a signal ends the process as it would end any other."""
    for number in NAMES:
        if signal.getsignal(number) == _note:
            signal.signal(number, signal.SIG_DFL)


def requested() -> signal.Signals | None:
    """Returns the signal that asked this process to stop, or None."""
    return _state.requested


def ends_at_once() -> bool:
    """Returns whether a signal will end this process in a moment, with nothing to save."""
    return _state.requested is not None and not (_state.saves or _state.leaving)


def check() -> None:
    """Marks a safe place of a command that has nothing to save.

    Raises:
        Stopped: a signal asked the command to stop.
    """
    if _state.requested is not None:
        raise stopped(_state.requested, NOTHING_NEW)


def stopped(number: signal.Signals, how: str) -> Stopped:
    """Returns the exception that stops the command, with the line the user reads; after this only Ctrl-C acts."""
    _state.leaving = True
    return Stopped(number, f"Stopped by {NAMES[number]} {how}; run the same command again to go on.")


@contextlib.contextmanager
def something_to_save() -> Iterator[None]:
    """Within the block, or after an error in it, only the main thread or a second Ctrl-C ends the process."""
    _state.saves = True
    try:
        yield
    except BaseException:
        _state.leaving = True
        raise
    finally:
        _state.saves = False


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, Ctrl-C is obeyed at the next safe place if there is something to save, in Python's own process.

    Otherwise, and the second time, it does what it would do outside: it raises KeyboardInterrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    raise_at_once: Any = before if callable(before) else signal.default_int_handler

    def note(number: int, frame: FrameType | None) -> None:
        if _state.saves and _state.requested is None:
            _state.requested = signal.Signals(number)
            say("Ctrl-C: saving; once more leaves without saving.")
        else:
            raise_at_once(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _state.requested, _state.leaving = None, False


def say(sentence: str) -> None:
    """Writes a line to standard error, if that still exists; on a terminal in the place of a progress bar."""
    with contextlib.suppress(OSError):
        clear = _CLEAR if os.isatty(2) and os.environ.get("TERM") != "dumb" else ""
        os.write(2, f"{clear}{fitted(sentence)}\n".encode())


def _note(number: int, frame: FrameType | None) -> None:
    """Does nothing: Python's own handler has already written the signal's number to the pipe."""


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
            say(f"{NAMES[number]}: saving; {again} leaves without saving.")
        elif number == signal.SIGINT and os.isatty(2):
            # Whoever sits there wants an answer at once.
            say("Ctrl-C: stopping …")
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
            # A progress bar hides the cursor; this shows it again.
            os.write(stream, b"\x1b[?25h")
    os._exit(128 + number)
