"""Everything that only shows how a training goes; if showing fails, a warning says so once, and training goes on."""

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

# More events than this are dropped if the disk is too slow.
_WAITING = 10_000
_FLUSH_SECONDS = 30
_CLOSE_SECONDS = 10
_NONE_YET = Event()


class Showing:
    """Shows something until that fails for the first time."""

    def __init__(self, name: str) -> None:
        """Takes the name that a warning uses."""
        self._name = name
        self._failed = False

    def __call__(self, show: Callable[[], object]) -> None:
        """Calls `show`, unless it failed before."""
        if self._failed:
            return
        try:
            show()
        # Any failure counts; rich even exits if nobody reads.
        except (Exception, SystemExit) as error:
            self._failed = True
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            signals.say(f"warning: {self._name} failed ({reason}) and is left out; the training goes on.")


class Board:
    """TensorBoard's events, written by a separate thread, so that no disk delays the training."""

    def __init__(self, directory: epath.Path, first: int) -> None:
        """Begins a file of events, which replaces those of other files from step `first` on."""
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
        """Waits a moment for events that are not written yet."""
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
