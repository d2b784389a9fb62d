"""Held-out loss, exactly counted: every real target once, however ragged the last batch."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gpt1_jax.data.batches import EvaluationBatches
from gpt1_jax.training import sharding
from gpt1_jax.training.objectives import Objective


def make_evaluate(
    loss: Objective, batches: EvaluationBatches, num_batches: int, mesh: Mesh
) -> Callable[[Any], float]:
    """A function of the parameters that measures them on held-out windows.

    Args:
        loss: without dropout; the batches' weights are 0 and 1, so it returns sums.
        batches: every window once, in an order whose first batches are a fair sample.
        num_batches: how many to look at; 0 is all.

    Returns:
        params → mean loss in nats a token.
    """
    place = sharding.replicated(mesh)
    sums = jax.jit(
        lambda params, batch: jnp.stack([loss(params, batch), batch.weights.sum()]), out_shardings=place
    )
    count = min(num_batches or batches.num_batches, batches.num_batches)

    def evaluate(params: Any) -> float:
        parts = []
        for step in range(count):
            batch = sharding.place_rows(
                lambda start, stop, step=step: batches.rows(step, start, stop), batches.batch_size, mesh
            )
            parts.append(sums(params, batch))
            if step >= 2:
                parts[step - 2].block_until_ready()  # a few batches in flight at most: memory stays flat
        total, tokens = (math.fsum(column) for column in zip(*jax.device_get(parts), strict=True))
        return total / tokens

    return evaluate


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """A loss in nats a token as bits a UTF-8 byte of the text, comparable between tokenizers."""
    return loss / math.log(2) / bytes_per_token
