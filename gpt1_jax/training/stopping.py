"""Stopping on request: SIGTERM, as clusters send it before they take a machine, and Ctrl-C."""

import os
import signal
from types import FrameType, TracebackType
from typing import Self

from jax.experimental import multihost_utils

from gpt1_jax.training import hosts


class StopRequest:
    """Within its context SIGTERM and the first Ctrl-C are only noted; a second Ctrl-C interrupts.

    Of several processes any one may get the signal; then all are asked to stop at the same step.
    """

    requested = False

    def __enter__(self) -> Self:
        # With several processes SIGTERM is left to jax, whose handler tells the others.
        numbers = (signal.SIGTERM, signal.SIGINT) if hosts.alone() else (signal.SIGINT,)
        self._previous = {number: signal.signal(number, self._request) for number in numbers}
        return self

    def asked(self, step: int) -> bool:
        """Whether to stop after this step; call it at every step."""
        return self.requested if hosts.alone() else multihost_utils.reached_preemption_sync_point(step)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not hosts.alone():
            os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGINT, signal.default_int_handler)
