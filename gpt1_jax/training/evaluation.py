"""Held-out text and labeled examples, exactly counted: each once, however ragged the last batch, on any mesh."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gpt1_jax.data.batches import EvaluationBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.devices.mesh import place_rows, replicated
from gpt1_jax.model.heads import Classifier
from gpt1_jax.model.losses import token_log_probabilities
from gpt1_jax.model.trunk import Trunk
from gpt1_jax.tasks.batches import TaskEvaluationBatches
from gpt1_jax.tasks.encoding import EncodedExamples
from gpt1_jax.training import stopping
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
        params → mean loss in nats a token; it raises Stopped between batches where a signal asked for it.
    """
    place = replicated(mesh)
    sums = jax.jit(
        lambda params, batch: jnp.stack([loss(params, batch)[0], batch.weights.sum()]), out_shardings=place
    )
    count = min(num_batches or batches.num_batches, batches.num_batches)

    def evaluate(params: Any) -> float:
        parts = []
        for step in range(count):
            stopping.check()
            batch = place_rows(
                lambda start, stop, step=step: batches.rows(step, start, stop), batches.batch_size, mesh
            )
            parts.append(sums(params, batch))
            if step >= 2:
                parts[step - 2].block_until_ready()  # a few batches in flight at most: memory stays flat
        total, tokens = (math.fsum(column) for column in zip(*jax.device_get(parts), strict=True))
        return total / tokens

    return evaluate


Predict = Callable[[Any, EncodedExamples, int], np.ndarray]


def make_predict(model: Classifier, mesh: Mesh) -> Predict:
    """A function (parameters, examples, batch size) → the head's logits [N, C], float32, in the examples' order."""

    def logits(params: Any, batch: Any) -> jax.Array:
        found, _ = cast(Any, model.apply({"params": params}, batch.tokens))
        return found

    return _over_examples(logits, mesh)


def make_score(model: Trunk, mesh: Mesh) -> Predict:
    """A function (parameters, queries, batch size) → the log-probability of what each sequence is scored by, [N, S].

    Queries are as `tasks.zero_shot.encode_queries` makes them: `labels` tells how many tokens at the end count.
    """

    def score(params: Any, batch: Any) -> jax.Array:
        tokens, targets, weights = (x.reshape(-1, x.shape[-1]) for x in batch[:3])
        hidden: Any = model.apply({"params": params}, tokens)
        found = token_log_probabilities(hidden, params["tokens"], targets, model.vocab_size)
        real = weights > 0
        first = real.sum(-1) - batch.labels.reshape(-1)
        scored = real & (jnp.arange(real.shape[-1]) >= first[:, None])
        return jnp.where(scored, found, 0).sum(-1).reshape(batch.labels.shape)

    return _over_examples(score, mesh)


def _over_examples(function: Callable[[Any, Any], jax.Array], mesh: Mesh) -> Predict:
    """Applies (parameters, batch) → [B, C] to all examples; it compiles for each width of their buckets, once."""
    compiled = jax.jit(function, out_shardings=replicated(mesh))

    def predict(params: Any, examples: EncodedExamples, batch_size: int) -> np.ndarray:
        predicted = np.zeros_like(examples.labels)
        if not len(examples):
            return predicted
        rows = -(-batch_size // mesh.size) * mesh.size
        batches = TaskEvaluationBatches(examples, rows)
        parts = []
        for step in range(batches.num_batches):
            stopping.check()
            batch = place_rows(lambda start, stop, step=step: batches.rows(step, start, stop), rows, mesh)
            parts.append(compiled(params, batch))
            if step >= 2:
                parts[step - 2].block_until_ready()  # so that a stop is not far behind
        predicted[batches.order] = np.concatenate(jax.device_get(parts))[: len(examples)]
        return predicted

    return predict


def score_text(loss: float, splits: Sequence[Split]) -> dict[str, float]:
    """What a loss over all tokens of some splits is in other measures.

    Returns:
        "loss" (nats a token), "perplexity", and "bits_per_byte", which is left out where decoding does not give the
        text back: the bytes count what the tokenizer lost, of which the model was asked nothing.
    """
    scores = {"loss": loss, "perplexity": perplexity(loss)}
    if not any(split.lost for split in splits):
        tokens = sum(len(split) - 1 for split in splits)
        scores["bits_per_byte"] = bits_per_byte(loss, sum(split.bytes for split in splits) / tokens)
    return scores


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """A loss in nats a token as bits a UTF-8 byte of the text, comparable between tokenizers."""
    return loss / math.log(2) / bytes_per_token
