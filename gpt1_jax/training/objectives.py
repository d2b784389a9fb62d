"""What is minimized: each objective is a function (parameters, batch) → loss."""

from collections.abc import Callable
from typing import Any

import jax

from gpt1_jax.model.losses import tied_cross_entropy
from gpt1_jax.model.transformer import Transformer

Objective = Callable[[Any, Any], jax.Array]


def language_model_loss(model: Transformer, dropout: bool) -> Objective:
    """L1, the weighted sum of the next tokens' negative log-likelihoods (the paper's equation 1).

    Args:
        model: the decoder.
        dropout: whether the batch's noise is applied.

    Returns:
        A function of the parameters and a Batch (tokens, targets, weights [B, S, T]; noise [B, S]): Σ w · ℓ.
    """

    def loss(params: Any, batch: Any) -> jax.Array:
        tokens, targets, weights = (
            x.reshape(-1, x.shape[-1]) for x in (batch.tokens, batch.targets, batch.weights)
        )
        hidden = model.apply({"params": params}, tokens, batch.noise.reshape(-1) if dropout else None)
        assert isinstance(hidden, jax.Array)
        return tied_cross_entropy(hidden, params["tokens"], targets, weights, model.vocab_size)

    return loss
