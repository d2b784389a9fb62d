"""What turns final states into predictions: the token table and, in a model that fills masks (BERT), more around it.

There a state passes through a dense layer, an activation and a norm before the table, and the logits have a bias. Such
a model also has a pooler, through which heads for classes read the first state. It predicts no next token.

Letters: B sequences, T positions, D width, V rows of the table, padding included.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.config import ModelConfig
from gpt1_jax.errors import UserError
from gpt1_jax.model.embedding import project
from gpt1_jax.model.layers import ACTIVATIONS, layer_norm, norm_parameters, parameter, zeros

# How the names of parameters begin that lie behind the last block, here and in `transformer`.
BEHIND = ("final_norm", "transform", "output", "pooler")


def output_parameters(module: nn.Module, rows: int, width: int, init: Any) -> None:
    """Makes the parameters of a trunk that fills masks; `rows` is V, `init` the start of matrices."""
    for name in ("transform", "pooler"):
        parameter(module, f"{name}_kernel", ("embed", None), init, width, width)
        parameter(module, f"{name}_bias", (None,), zeros, width)
    norm_parameters(module, "transform_norm", width)
    parameter(module, "output_bias", ("vocab",), zeros, rows)


def before_table(config: ModelConfig, params: Any, states: jax.Array) -> jax.Array:
    """Returns what the token table is multiplied with: the final states [..., D] themselves, or their transform."""
    if config.causal:
        return states
    x = ACTIVATIONS[config.activation](_dense("transform", params, states))
    norm = layer_norm(config.norm_epsilon)
    return norm(x, params["transform_norm_scale"], params["transform_norm_bias"])


def logits(config: ModelConfig, params: Any, states: jax.Array, vocab_size: int) -> jax.Array:
    """Returns all logits of a few states.

    Args:
        config: of the trunk.
        params: of the trunk.
        states: its final states [..., D].
        vocab_size: the number of pieces.

    Returns:
        float32 [..., vocab_size].
    """
    found = project(before_table(config, params, states), params["tokens"].astype(states.dtype))
    if (bias := params.get("output_bias")) is not None:
        found = found + bias
    # The logits are cut, not the table, which would be copied.
    return found[..., :vocab_size]


def pooled(params: Any, states: jax.Array) -> jax.Array:
    """Returns tanh(W · state + b) of states [..., D]: what BERT's heads for classes read of the first position."""
    return jnp.tanh(_dense("pooler", params, states))


def _dense(name: str, params: Any, states: jax.Array) -> jax.Array:
    kernel, bias = (params[f"{name}_{part}"].astype(states.dtype) for part in ("kernel", "bias"))
    return states @ kernel + bias


def check_continues(config: ModelConfig, wish: str) -> None:
    """Checks that a model predicts next tokens.

    Args:
        config: of the trunk.
        wish: what needs that, as the subject of the error's sentence.

    Raises:
        UserError: the model fills masks.
    """
    if not config.causal:
        raise UserError(
            f"{wish} needs a model that predicts the next token, and this one fills masks (model.causal=False); name "
            "a run of a causal model."
        )
