"""What training minimizes: each objective is a function (parameters, batch) → (loss, its parts)."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from gpt1_jax.model.dropout import drop_tables
from gpt1_jax.model.embedding import TABLE_MULTIPLE
from gpt1_jax.model.heads import Classifier
from gpt1_jax.model.losses import tied_cross_entropy
from gpt1_jax.model.output import before_table
from gpt1_jax.model.trunk import Trunk, used_rows

Objective = Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]]


def language_model_loss(model: Trunk, dropout: bool) -> Objective:
    """Returns L1, the weighted sum of the targets' negative log-likelihoods (the paper's equation 1).

    The targets are the next tokens, or of a model that fills masks the tokens behind them, while all others have weight
    0.

    Args:
        model: the trunk.
        dropout: whether the batch's noise is applied.

    Returns:
        A function of the parameters and a Batch: the loss Σ w · ℓ, and no parts.
    """

    def loss(params: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        arrays = (batch.tokens, batch.types, batch.groups, batch.positions)
        tokens, types, groups, positions = map(flat, arrays)
        if dropout:
            params = drop_tables(params, batch.update[0], model.config)
        noise = batch.noise.reshape(-1) if dropout else None
        hidden: Any = model.apply({"params": params}, tokens, noise, types, groups, positions)
        if batch.places is not None:
            hidden, batch = _at_places(hidden, batch)
        return _next_tokens(model, params, hidden, batch), {}

    return loss


def finetuning_loss(
    model: Classifier,
    auxiliary_weight: float,
    regression: bool,
    softmax: Literal["tokens", "authors"] = "tokens",
) -> Objective:
    """Returns L3 = L2 + λ · L1, with dropout (the paper's equation 5).

    Args:
        model: trunk and head. The specials in use are targets of L1 like any token. Without a head L3 is L1.
        auxiliary_weight: λ; at 0 the language model's loss is not computed, nor if the trunk fills masks (BERT): its
            positions see the tokens that they would predict.
        regression: whether L2 is the squared error of the head's one output instead of the cross-entropy.
        softmax: whether L1's softmax runs over the tokens in use only, or also over the positions' rows, as in the
            authors' `model`, where both are one table.

    Returns:
        A function of the parameters and a TaskBatch: the loss, and its parts "task_loss" (L2) and "lm_loss" (L1).
    """

    def loss(params: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        params = {**params, "trunk": drop_tables(params["trunk"], batch.update[0], model.trunk.config)}
        outputs: Any = model.apply({"params": params}, batch.tokens, batch.noise, batch.types, batch.groups)
        logits, hidden = outputs
        if model.head is None:
            lm_loss = _next_tokens(
                model.trunk, params["trunk"], hidden, batch, positions=softmax == "authors"
            )
            return lm_loss, {"lm_loss": lm_loss}
        if regression:
            errors = optax.squared_error(logits, batch.labels).sum(-1)
        else:
            errors = optax.softmax_cross_entropy(logits, batch.labels)
        task_loss = (batch.label_weights * errors).sum()
        if not auxiliary_weight or not model.trunk.config.causal:
            return task_loss, {"task_loss": task_loss}
        lm_loss = _next_tokens(model.trunk, params["trunk"], hidden, batch, positions=softmax == "authors")
        return task_loss + auxiliary_weight * lm_loss, {"task_loss": task_loss, "lm_loss": lm_loss}

    return loss


def flat(x: jax.Array | None) -> jax.Array | None:
    """Returns a batch's array [B, S, T] as a trunk takes it, [B · S, T]; None stays None."""
    return None if x is None else x.reshape(-1, x.shape[-1])


def _at_places(hidden: jax.Array, batch: Any) -> tuple[jax.Array, Any]:
    """Returns the states, targets and weights at a batch's places only: no others need to meet the token table."""
    targets, weights = (jnp.take_along_axis(x, batch.places, -1) for x in (batch.targets, batch.weights))
    hidden = jnp.take_along_axis(hidden, batch.places.reshape(len(hidden), -1, 1), 1)
    return hidden, batch._replace(targets=targets, weights=weights)


def _next_tokens(model: Trunk, params: Any, hidden: Any, batch: Any, positions: bool = False) -> jax.Array:
    """Returns Σ w · ℓ of the targets, among the tokens in use and, if `positions` says so, the positions' rows."""
    targets, weights = (x.reshape(-1, x.shape[-1]) for x in (batch.targets, batch.weights))
    table, used = params["tokens"], used_rows(model)
    if positions:
        table = jnp.concatenate([table[:used], params["positions"]])
        used = len(table)
        table = jnp.pad(table, [(0, -used % TABLE_MULTIPLE), (0, 0)])
    hidden = before_table(model.config, params, hidden)
    return tied_cross_entropy(hidden, table, targets, weights, used, params.get("output_bias"))
