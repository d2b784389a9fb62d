"""Causal attention with dropout on its weights (the paper's section 3.1, the authors' `_attn`).

Letters: B sequences, T positions, H heads, K head width, C slots of a cache.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt1_jax.cpu import recomputed
from gpt1_jax.model.dropout import Dropout

# Queries are processed in chunks of this size, each against the keys up to its own end, so the masked half of the
# scores is never computed. Measured on CPU (docs/measured.md).
CHUNK = 128
# The authors' score of a masked position.
MASKED = -1e9


def plain_attention(query: jax.Array, key: jax.Array, value: jax.Array, dropout: Dropout) -> jax.Array:
    """Returns softmax(q kᵀ / √K, masked) with dropout, times v, with all scores at once and a float32 softmax.

    Args:
        query, key, value: [B, T, H, K].
        dropout: the dropout of the weights.

    Returns:
        [B, T, H, K].
    """
    return _attend_last(query, key, value, dropout)


def chunked_attention(query: jax.Array, key: jax.Array, value: jax.Array, dropout: Dropout) -> jax.Array:
    """Computes `plain_attention` one chunk of queries at a time."""
    length = query.shape[1]
    outputs = []
    for start in range(0, length, CHUNK):
        stop = min(start + CHUNK, length)
        outputs.append(_attend_last(query[:, start:stop], key[:, :stop], value[:, :stop], dropout))
    return jnp.concatenate(outputs, axis=1)


@recomputed
def _attend_last(query: jax.Array, key: jax.Array, value: jax.Array, dropout: Dropout) -> jax.Array:
    """Returns the attention of the last Q positions: query [B, Q, H, K]; key and value [B, S, H, K] up to their end."""
    columns = jnp.arange(key.shape[1])
    rows = columns[-query.shape[1] :]
    scores = jnp.einsum("bqhk,bshk->bhqs", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(rows[:, None] >= columns, scores * query.shape[-1] ** -0.5, MASKED)
    weights = dropout.weights(jax.nn.softmax(scores), rows, columns).astype(value.dtype)
    return jnp.einsum("bhqs,bshk->bqhk", weights, value)


class Cache(NamedTuple):
    """What a layer's attention keeps of past positions, so that nothing is computed twice.

    All sequences are at the same slot; shorter ones begin at a later slot.

    Attributes:
        keys, values: [B, H, C, K].
    """

    keys: jax.Array
    values: jax.Array


def cached_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, cache: Cache, slot: jax.Array, first: jax.Array
) -> tuple[jax.Array, Cache]:
    """Computes `plain_attention` without dropout for positions that follow those in a cache, and adds them to it.

    Args:
        query, key, value: [B, T, H, K].
        cache: holds all slots before `slot`.
        slot: int32, where the first of the T positions goes.
        first: int32 [B], the slot at which each sequence begins.

    Returns:
        [B, T, H, K], and the cache with the new positions.
    """
    place = (0, 0, slot, 0)
    keys = jax.lax.dynamic_update_slice(cache.keys, key.swapaxes(1, 2), place)
    values = jax.lax.dynamic_update_slice(cache.values, value.swapaxes(1, 2), place)
    rows, columns = slot + jnp.arange(query.shape[1]), jnp.arange(keys.shape[2])
    visible = (rows[:, None] >= columns) & (columns >= first[:, None, None, None])
    scores = jnp.einsum("bqhk,bhsk->bhqs", query, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(visible, scores * query.shape[-1] ** -0.5, MASKED)).astype(value.dtype)
    return jnp.einsum("bhqs,bhsk->bqhk", weights, values), Cache(keys, values)
