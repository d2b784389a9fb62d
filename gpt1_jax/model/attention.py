"""Causal attention with dropout on its weights (the paper's section 3.1, the authors' `_attn`).

Letters: B sequences, T positions, H heads, K head width, C slots of a cache.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt1_jax.model.dropout import dropout, grid_index

# Queries are taken this many at a time, each chunk against the keys up to its own end: the masked half of the
# scores is never computed. Measured on CPU (BUILD_NOTES.md).
CHUNK = 128
MASKED = -1e9  # the authors' score of a masked position


def causal_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    noise: jax.Array | None,
    site: jax.Array | int,
    rate: float,
    context_length: int,
    form: str,
) -> jax.Array:
    """softmax(q kᵀ / √K, masked) with dropout, times v; the softmax is in float32.

    Args:
        query, key, value: [B, T, H, K].
        noise, site, rate: see `dropout.keep_mask`.
        context_length: the model's longest T; the stride of the dropout index, so that a mask does not depend
            on how far a batch is padded.
        form: "plain" computes all T × T scores at once, "chunked" query chunks; "auto" is chunked.

    Returns:
        [B, T, H, K].
    """
    length, heads = query.shape[1:3]
    chunk = length if form == "plain" else CHUNK
    outputs = []
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        rows, columns = jnp.arange(start, stop), jnp.arange(stop)
        scores = jnp.einsum(
            "bqhk,bshk->bhqs", query[:, start:stop], key[:, :stop], preferred_element_type=jnp.float32
        )
        scores = scores * query.shape[-1] ** -0.5
        scores = jnp.where(rows[:, None] >= columns, scores, MASKED)
        index = grid_index(
            (jnp.arange(heads), context_length * context_length), (rows, context_length), (columns, 1)
        )
        weights = dropout(jax.nn.softmax(scores), noise, site, index, rate).astype(value.dtype)
        outputs.append(jnp.einsum("bhqs,bshk->bqhk", weights, value[:, :stop]))
    return jnp.concatenate(outputs, axis=1)


class Cache(NamedTuple):
    """What a layer's attention keeps of the positions so far, so that none is computed twice.

    All sequences stand at one slot: those whose beginning is shorter begin at a later slot.

    Fields:
        keys, values: [B, H, C, K].
    """

    keys: jax.Array
    values: jax.Array


def cached_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, cache: Cache, slot: jax.Array, first: jax.Array
) -> tuple[jax.Array, Cache]:
    """`causal_attention` without dropout for positions that follow those in a cache, which are added to it.

    Args:
        query, key, value: [B, T, H, K].
        cache: of all slots before `slot`.
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
