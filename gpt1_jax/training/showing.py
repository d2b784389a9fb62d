"""What only shows how a training goes: where it fails, that is told once, and the training goes on without it."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from etils import epath
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter, directory_check
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

from gpt1_jax import signals

_WAITING = 10_000  # events; more are dropped where the disk does not follow
_FLUSH_SECONDS = 30
_CLOSE_SECONDS = 10
_NONE_YET = Event()


class Showing:
    """Shows something until that fails for the first time."""

    def __init__(self, name: str) -> None:
        """`name` is what a warning calls it."""
        self._name = name
        self._failed = False

    def __call__(self, show: Callable[[], object]) -> None:
        """Calls `show`, unless it failed before."""
        if self._failed:
            return
        try:
            show()
        except (Exception, SystemExit) as error:  # whatever it is, and rich exits where nobody reads
            self._failed = True
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            signals.say(f"warning: {self._name} failed ({reason}) and is left out; the training goes on.")


class Board:
    """TensorBoard's events, written by a thread of its own, so that no disk keeps the training waiting."""

    def __init__(self, directory: epath.Path, first: int) -> None:
        """Begins a file of events; those that other files have from step `first` on are void."""
        self._events: queue.Queue[Event | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._serve, args=(str(directory), first), daemon=True)
        self._thread.start()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Adds a number to a curve."""
        self._put(summary.scalar(name, value), step)

    def add_text(self, name: str, text: str, step: int) -> None:
        """Adds a text."""
        self._put(summary.text(name, text), step)

    def close(self) -> None:
        """Waits a moment for what is not written yet."""
        if self._thread.is_alive():
            self._events.put(None)
            self._thread.join(_CLOSE_SECONDS)

    def _put(self, shown: Any, step: int) -> None:
        if self._thread.is_alive() and not self._events.full():
            self._events.put(Event(step=step, wall_time=time.time(), summary=shown))

    def _serve(self, directory: str, first: int) -> None:
        Showing("TensorBoard's file")(lambda: self._write(directory, first))

    def _write(self, directory: str, first: int) -> None:
        directory_check(directory)
        with contextlib.closing(EventsWriter(f"{directory}/events")) as writer:
            writer.write_event(Event(step=first, session_log=SessionLog(status=SessionLog.START)))
            flushed = time.monotonic()
            while (event := self._next()) is not None:
                if event is not _NONE_YET:
                    writer.write_event(event)
                if time.monotonic() - flushed > _FLUSH_SECONDS:
                    writer.flush()
                    flushed = time.monotonic()

    def _next(self) -> Event | None:
        try:
            return self._events.get(timeout=_FLUSH_SECONDS)
        except queue.Empty:
            return _NONE_YET
