"""How fast a training is: the FLOPs of a token, their share of the devices' peak, and a stopwatch."""

import time

import jax

from gpt1_jax.config import ModelConfig
from gpt1_jax.devices.chips import PEAK_FLOPS


def training_flops_per_token(model: ModelConfig, vocab_size: int) -> float:
    """FLOPs of forward and backward a token: 6 a weight, and causal attention counted once, 6·L·T·D.

    725 MFLOP for GPT-1 at T = 512. Embedding look-ups and position rows multiply nothing and do not count. An LSTM
    has no attention; each of its U units has four gates that read D + U numbers, and is read by D outputs.
    """
    width, hidden = model.d_model, model.d_ff
    if model.kind == "lstm":
        return 6 * (hidden * (4 * (width + hidden) + width) + vocab_size * width)
    block = 4 * width * width + 2 * width * hidden + 9 * width + hidden
    attention = model.num_layers * model.context_length * width
    return 6 * (model.num_layers * block + vocab_size * width + attention)


def model_flops_utilization(tokens_per_second: float, flops_per_token: float, devices: int) -> float | None:
    """The share of the devices' bfloat16 peak that goes into the model; None where the peak is not known."""
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return tokens_per_second * flops_per_token / (peak * devices) if peak else None


class Stopwatch:
    """Seconds spent training, without evaluation and saving."""

    def __init__(self) -> None:
        self._steps = 0
        self._seconds = 0.0
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stops counting, until `resume`."""
        self._seconds += time.perf_counter() - self._since

    def resume(self) -> None:
        """Counts again."""
        self._since = time.perf_counter()

    def step(self) -> None:
        """Counts a finished step."""
        self._steps += 1

    def lap(self) -> float:
        """Mean seconds a step since the last lap."""
        self.pause()
        seconds = self._seconds / max(self._steps, 1)
        self._steps, self._seconds = 0, 0.0
        self.resume()
        return seconds
