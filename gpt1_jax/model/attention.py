"""Attention with dropout on its weights (the paper's section 3.1, the authors' `_attn`).

Letters: B sequences, T positions, H heads, K head width, C slots of a cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt1_jax.cpu import recomputed
from gpt1_jax.model.dropout import Dropout

# Queries are processed in chunks of this size. In causal attention, each chunk meets only the keys up to its own end,
# so the masked half of the scores is never computed. Measured on CPU (docs/measured.md).
CHUNK = 128
# The authors' score of a masked position.
MASKED = -1e9


@partial(jax.tree_util.register_dataclass, data_fields=["groups"], meta_fields=["causal"])
@dataclass(frozen=True)
class Sight:
    """Which positions a position attends to.

    Attributes:
        groups: int32 [B, T], each position attends to positions of its own group only; None is one group of all.
        causal: whether it attends only to itself and to those before it.
    """

    groups: jax.Array | None = None
    causal: bool = True

    def visible(self, rows: jax.Array, columns: jax.Array) -> jax.Array | None:
        """Returns which keys [S] the queries [Q] see, bool broadcasting to [B, H, Q, S], or None if they see all."""
        seen = rows[:, None] >= columns if self.causal else None
        if self.groups is None:
            return seen
        same = (self.groups[:, rows, None] == self.groups[:, None, columns])[:, None]
        return same if seen is None else seen & same


# What GPT-1's positions attend to.
BEFORE = Sight()


def plain_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, dropout: Dropout, sight: Sight = BEFORE
) -> jax.Array:
    """Returns softmax(q kᵀ / √K, masked) with dropout, times v, with all scores at once and a float32 softmax.

    Args:
        query, key, value: [B, T, H, K].
        dropout: the dropout of the weights.
        sight: what is not masked.

    Returns:
        [B, T, H, K].
    """
    return _attention_behind(0)(query, key, value, dropout, sight)


def chunked_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, dropout: Dropout, sight: Sight = BEFORE
) -> jax.Array:
    """Computes `plain_attention` one chunk of queries at a time."""
    length = query.shape[1]
    outputs = []
    for start in range(0, length, CHUNK):
        stop = min(start + CHUNK, length)
        end = stop if sight.causal else length
        chunk = query[:, start:stop], key[:, :end], value[:, :end]
        outputs.append(_attention_behind(start)(*chunk, dropout, sight))
    return jnp.concatenate(outputs, axis=1)


def attention_from(
    query: jax.Array, key: jax.Array, value: jax.Array, places: jax.Array, sight: Sight
) -> jax.Array:
    """Computes `plain_attention` without dropout for some positions of each sequence.

    Args:
        query: [B, N, H, K].
        key, value: [B, T, H, K].
        places: int32 [B, N], the positions of the queries.
        sight: what is not masked.

    Returns:
        [B, N, H, K].
    """
    columns = jnp.arange(key.shape[1])
    seen = columns <= places[..., None] if sight.causal else jnp.ones((*places.shape, len(columns)), bool)
    if sight.groups is not None:
        seen &= sight.groups[:, None] == jnp.take_along_axis(sight.groups, places, 1)[..., None]
    weights = _weights(query, key, seen[:, None]).astype(value.dtype)
    return jnp.einsum("bhqs,bshk->bqhk", weights, value)


@cache
def _attention_behind(start: int) -> Callable[..., jax.Array]:
    """Returns the attention of the queries [B, Q, H, K] from position `start` on to keys and values [B, S, H, K]."""

    @recomputed
    def attend(
        query: jax.Array, key: jax.Array, value: jax.Array, dropout: Dropout, sight: Sight
    ) -> jax.Array:
        rows, columns = start + jnp.arange(query.shape[1]), jnp.arange(key.shape[1])
        weights = _weights(query, key, sight.visible(rows, columns))
        weights = dropout.weights(weights, rows, columns).astype(value.dtype)
        return jnp.einsum("bhqs,bshk->bqhk", weights, value)

    return attend


def _weights(query: jax.Array, key: jax.Array, visible: jax.Array | None) -> jax.Array:
    """Returns the weights, float32 [B, H, Q, S], of keys [B, S, H, K] for queries [B, Q, H, K]."""
    scores = jnp.einsum("bqhk,bshk->bhqs", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    return jax.nn.softmax(scores if visible is None else jnp.where(visible, scores, MASKED))


def open_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, sight: Sight
) -> tuple[jax.Array, jax.Array]:
    """Computes `plain_attention` without dropout, and also returns its weights, float32 [B, H, T, T]."""
    places = jnp.arange(query.shape[1])
    weights = _weights(query, key, sight.visible(places, places))
    return jnp.einsum("bhqs,bshk->bqhk", weights.astype(value.dtype), value), weights


class Cache(NamedTuple):
    """What a layer's attention keeps of past positions, so that nothing is computed twice.

    All sequences are at the same slot; those that are shorter, or came later, begin at a later one. The C places are a
    ring: slot s is at place s mod C, where it stays until slot s + C takes over.

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
        cache: holds the slots before `slot`.
        slot: int32, where the first of the T positions goes; all T follow one another in the ring.
        first: int32 [B], the slot at which each sequence begins, of the C last ones.

    Returns:
        [B, T, H, K], and the cache with the new positions.
    """
    size = cache.keys.shape[2]
    place = (0, 0, slot % size, 0)
    keys = jax.lax.dynamic_update_slice(cache.keys, key.swapaxes(1, 2), place)
    values = jax.lax.dynamic_update_slice(cache.values, value.swapaxes(1, 2), place)
    rows = slot + jnp.arange(query.shape[1])
    # The slots that the places hold by now.
    columns = rows[-1] - (rows[-1] - jnp.arange(size)) % size
    visible = (rows[:, None] >= columns) & (columns >= first[:, None, None, None])
    scores = jnp.einsum("bqhk,bhsk->bhqs", query, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(visible, scores * query.shape[-1] ** -0.5, MASKED)).astype(value.dtype)
    return jnp.einsum("bhqs,bhsk->bqhk", weights, values), Cache(keys, values)
