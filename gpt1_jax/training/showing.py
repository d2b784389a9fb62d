"""Everything that only shows how a training goes; if showing fails, a warning says so once, and training goes on."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping

from gpt1_jax import signals
from gpt1_jax.training.writers import Writer

# More entries than this are dropped if the disk or the network is too slow.
_WAITING = 10_000
_FLUSH_SECONDS = 30

# What a thread does with its writer.
_Entry = Callable[[Writer], None]


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
    """A writer with a thread of its own, so that neither a disk nor a network delays the training."""

    def __init__(self, name: str, begin: Callable[[], Writer], patience: float) -> None:
        """Begins to write.

        Args:
            name: what a warning calls it.
            begin: opens the writer.
            patience: how many seconds `close` waits at most.
        """
        self._begin, self._patience = begin, patience
        self._entries: queue.Queue[_Entry | None] = queue.Queue(_WAITING)
        showing = Showing(name)
        self._thread = threading.Thread(target=lambda: showing(self._serve), name=name, daemon=True)
        self._thread.start()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each of some curves."""
        self._put(lambda writer: writer.add(step, values))

    def add_text(self, step: int, name: str, text: str) -> None:
        """Adds a text."""
        self._put(lambda writer: writer.add_text(step, name, text))

    def close(self) -> None:
        """Waits a moment for what is not written yet."""
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._entries.put(None, timeout=self._patience)
            self._thread.join(self._patience)

    def _put(self, entry: _Entry) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._entries.put_nowait(entry)

    def _serve(self) -> None:
        with contextlib.closing(self._begin()) as writer:
            flushed = time.monotonic()
            while (entry := self._next()) is not None:
                entry(writer)
                if time.monotonic() - flushed > _FLUSH_SECONDS:
                    writer.flush()
                    flushed = time.monotonic()

    def _next(self) -> _Entry | None:
        try:
            return self._entries.get(timeout=_FLUSH_SECONDS)
        except queue.Empty:
            return lambda writer: writer.flush()
