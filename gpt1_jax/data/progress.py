"""How far a long piece of work is, for those who wait for it."""

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console

_LINE_SECONDS = 30  # between two lines of progress where there is no terminal


class Progress:
    """Says lines to `say`, or to standard error, where a terminal also shows the count as it grows."""

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
        """Shows how far the work is: live on a terminal, elsewhere a line now and then."""
        if self._status:
            self._status.update(line)
        elif time.perf_counter() - self._last_line > _LINE_SECONDS:
            self.say(line)
            self._last_line = time.perf_counter()
