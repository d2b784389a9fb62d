"""A trace of a few steps, for TensorBoard's profiler and xprof."""

from typing import Any

import jax
from etils import epath

from gpt1_jax.training.showing import Showing


class Profiler:
    """Records the steps that `train.profile_steps` names, each process its own devices."""

    def __init__(self, steps: str, num_steps: int, directory: epath.Path) -> None:
        """`steps` is FIRST:LAST, or empty for none; the trace goes into the directory."""
        first, last = map(int, steps.split(":")) if steps else (0, 0)
        self._first, self._last = first, min(last, num_steps)
        self._directory = directory
        self._running = False
        self._recording = Showing("the profile")

    def before(self, step: int) -> None:
        """Begins the trace where this step is its first."""
        if step == self._first:
            self._recording(lambda: jax.profiler.start_trace(str(self._directory)))
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """Ends the trace where this step, which was dispatched, is its last: waits for its results."""
        if self._running and step >= self._last:
            jax.block_until_ready(results)
            self._recording(jax.profiler.stop_trace)
            self._running = False
