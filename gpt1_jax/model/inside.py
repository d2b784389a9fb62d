"""What a Transformer computes on its way from tokens to final states, for those who want to look at it.

Letters: B sequences, T positions, D width, L layers, H heads.
"""

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp

from gpt1_jax.model.attention import Sight, open_attention
from gpt1_jax.model.dropout import layer_dropouts
from gpt1_jax.model.transformer import Block, Transformer


def read_inside(
    trunk: Transformer, params: Any, tokens: jax.Array, groups: jax.Array, places: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns the states behind the embeddings and behind each block, and the weights of attention in each block.

    Attention is computed in its plain form, whatever form the config names; all forms have the same weights.

    Args:
        trunk: the model.
        params: its parameters.
        tokens: int32 [B, T].
        groups, places: int32 [B, T], as in a call of the model.

    Returns:
        [L + 1, B, T, D], of which the last are the model's final states, and float32 [L, B, H, T, T].
    """
    config = trunk.config
    attend = partial(open_attention, sight=Sight(groups, config.causal))
    dropouts = layer_dropouts(config, None, 0)

    def layer(x: jax.Array, block: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        x, weights = cast(Any, Block(config).apply({"params": block}, x, attend, dropouts))
        return x, (x, weights)

    where = slice(tokens.shape[1]) if places is None else places
    embedded: Any = trunk.apply({"params": params}, tokens, where, method="embed")
    last, (states, weights) = jax.lax.scan(layer, embedded, params["blocks"])
    final: Any = trunk.apply({"params": params}, last, method="finish")
    return jnp.concatenate([embedded[None], states[:-1], final[None]]), weights
