"""Shows how far a long piece of work is."""

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console

# Without a terminal, at most one line of progress appears in this time.
_LINE_SECONDS = 30


class Progress:
    """Passes lines to `say` or to standard error; if that is a terminal, it also shows a running count."""

    def __init__(self, say: Callable[[str], None] | None) -> None:
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.say = say or console.print
        self._status = console.status("") if say is None and console.is_terminal else None
        self._last_line = time.perf_counter()

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def count(self, line: str) -> None:
        """Shows how far the work is: at once on a terminal, and as a line now and then elsewhere."""
        if self._status:
            self._status.update(line)
        elif time.perf_counter() - self._last_line > _LINE_SECONDS:
            self.say(line)
            self._last_line = time.perf_counter()
