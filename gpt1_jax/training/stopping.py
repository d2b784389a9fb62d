"""Stopping on request: SIGTERM, as clusters send it before they take a machine, and Ctrl-C."""

import signal
from types import FrameType, TracebackType
from typing import Self


class StopRequest:
    """Within its context SIGTERM and the first Ctrl-C only set `requested`; a second Ctrl-C interrupts."""

    requested = False

    def __enter__(self) -> Self:
        self._previous = {
            number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
