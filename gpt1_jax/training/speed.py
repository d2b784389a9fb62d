"""How fast a training is: the FLOPs per token, their share of the devices' peak, and a stopwatch."""

import time

import jax

from gpt1_jax.config import ModelConfig
from gpt1_jax.data.masked import most_chosen
from gpt1_jax.devices.chips import PEAK_FLOPS


def training_flops_per_token(model: ModelConfig, vocab_size: int) -> float:
    """Returns the FLOPs of forward and backward per token: 6 per weight, and 6·L·T·D for causal attention.

    That is 725 MFLOP for GPT-1 at T = 512. Attention both ways takes twice as much. Look-ups of embeddings and
    positions multiply nothing and do not count, nor does the pooler, which only heads for classes read. Where masks are
    filled, only the hidden tokens meet the output.

    An LSTM has no attention; each of its U units has four gates that read D + U numbers, and is read by D outputs.
    """
    width, hidden = model.d_model, model.d_ff
    if model.kind == "lstm":
        return 6 * (hidden * (4 * (width + hidden) + width) + vocab_size * width)
    block = 4 * width * width + 2 * width * hidden + 9 * width + hidden
    attention = model.num_layers * model.context_length * width * (1 if model.causal else 2)
    norms = 2 * width * ((model.norm == "pre") + model.embedding_norm)
    output = vocab_size * width
    if not model.causal:
        output += vocab_size + width * width + 3 * width
        output *= most_chosen(model.context_length) / model.context_length
    return 6 * (model.num_layers * block + attention + norms + output)


def model_flops_utilization(tokens_per_second: float, flops_per_token: float, devices: int) -> float | None:
    """Returns the share of the devices' bfloat16 peak that the model uses, or None if the peak is unknown."""
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return tokens_per_second * flops_per_token / (peak * devices) if peak else None


class Stopwatch:
    """Measures the seconds spent on training, without evaluation and saving."""

    def __init__(self) -> None:
        self._steps = 0
        self._seconds = 0.0
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stops counting, until `resume`."""
        self._seconds += time.perf_counter() - self._since

    def resume(self) -> None:
        """Starts counting again."""
        self._since = time.perf_counter()

    def step(self) -> None:
        """Counts a finished step."""
        self._steps += 1

    def lap(self) -> float:
        """Returns the mean seconds per step since the last lap."""
        self.pause()
        seconds = self._seconds / max(self._steps, 1)
        self._steps, self._seconds = 0, 0.0
        self.resume()
        return seconds
