"""The kernels of flash attention: a program computes one block of positions of one head.

A head is stored as [K, T], so its positions fill the lanes even if it is narrow. Scores are [keys, queries]: softmax
reduces over rows, and the numbers of a query (its greatest score, its log-sum-exp) form a row of lanes. Scores are in
units of ln 2, because the hardware has exp2.

Letters: B sequences, T positions, K head width, C context length.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gpt1_jax.hashing import mix
from gpt1_jax.model.dropout import head_stride, threshold

LOG2_E = 1.4426950408889634
# Axes of a head's arrays, and of its scores.
FEATURES, POSITIONS = 0, 1
KEYS, QUERIES = 0, 1


class KernelSettings(NamedTuple):
    """What is fixed when a kernel is compiled.

    Attributes:
        block: positions in a block, of keys and of queries.
        blocks: the number of blocks in a head.
        rate: the rate of dropout; 0 means no dropout.
        context_length: C, the stride of the dropout index.
        interpret: whether the kernel is interpreted, and how.
    """

    block: int
    blocks: int
    rate: float
    context_length: int
    interpret: bool | pltpu.InterpretParams

    def place(self, number: Any) -> tuple[slice, Any]:
        """Returns the index of block `number` in a reference [K or 1, T]."""
        return slice(None), pl.ds(pl.multiple_of(number * self.block, self.block), self.block)


def forward(
    stream: Any, query: Any, key: Any, value: Any, output: Any, logsumexp: Any, *, settings: KernelSettings
) -> None:
    """Computes the attention of one block of queries to all keys before and in it, by the running softmax.

    Args:
        stream: uint32 [2, B], the offset and the multiplier of each sequence's hash; see `dropout.stream`.
        query, output: [K, block].
        key, value: [K, T].
        logsumexp: float32 [1, block], the log-sum-exp of the scores.
    """
    i, q, keep = pl.program_id(2), query[...], _mask(stream, settings)

    def step(j: Any, carry: Any, diagonal: bool = False) -> Any:
        top, total, sums = carry
        k, v = key[settings.place(j)], value[settings.place(j)]
        scores = _scores(q, k, diagonal)
        higher = jnp.maximum(top, scores.max(KEYS, keepdims=True))
        weights, fade = jnp.exp2(scores - higher), jnp.exp2(top - higher)
        total = total * fade + weights.sum(KEYS, keepdims=True)
        if settings.rate:
            weights = jnp.where(keep(i, j, diagonal), weights, 0)
        sums = sums * fade + _product(v, weights.astype(v.dtype), POSITIONS, KEYS)
        return higher, total, sums

    row = jnp.zeros((1, settings.block), jnp.float32)
    start = (row - jnp.inf, row, jnp.zeros(q.shape, jnp.float32))
    # The diagonal comes first, because only there every query sees a key.
    start = step(i, start, diagonal=True)
    top, total, sums = _loop(0, i, step, start, settings)
    output[...] = (sums / (total * (1 - settings.rate))).astype(output.dtype)
    logsumexp[...] = top + jnp.log2(total)


def backward(
    stream: Any,
    query: Any,
    key: Any,
    value: Any,
    cotangent: Any,
    logsumexp: Any,
    delta: Any,
    d_key: Any,
    d_value: Any,
    d_query: Any,
    total: Any,
    *,
    settings: KernelSettings,
) -> None:
    """Computes the gradients of one block of keys and values, from all queries in and after it.

    The programs of a head run one after the other and also add up the gradient of its queries, so weights and masks are
    computed a second time but not a third.

    Args:
        stream: as in `forward`.
        key, value, d_key, d_value: [K, block].
        query, cotangent, d_query: [K, T].
        logsumexp, delta: float32 [1, T]; see `_weights`.
        total: float32 [K, T], the gradient of the queries so far, kept from program to program.
    """
    j, k, v, keep = pl.program_id(2), key[...], value[...], _mask(stream, settings)
    scale = k.shape[FEATURES] ** -0.5 / (1 - settings.rate)

    @pl.when(j == 0)
    def _() -> None:
        total[...] = jnp.zeros(total.shape, total.dtype)

    def step(i: Any, carry: Any, diagonal: bool = False) -> Any:
        place = settings.place(i)
        q, do = query[place], cotangent[place]
        rows = logsumexp[place], delta[place]
        kept = keep(i, j, diagonal) if settings.rate else None
        weights, d_scores = _weights(q, k, v, do, *rows, kept, diagonal)
        total[place] += _product(k, d_scores, POSITIONS, KEYS)
        d_k, d_v = carry
        d_k += _product(q, d_scores, POSITIONS, QUERIES)
        d_v += _product(do, weights, POSITIONS, QUERIES)
        return d_k, d_v

    zeros = jnp.zeros(k.shape, jnp.float32)
    start = step(j, (zeros, zeros), diagonal=True)
    d_k, d_v = _loop(j + 1, settings.blocks, step, start, settings)
    d_key[...] = (d_k * scale).astype(d_key.dtype)
    d_value[...] = (d_v / (1 - settings.rate)).astype(d_value.dtype)

    @pl.when(j == settings.blocks - 1)
    def _() -> None:
        d_query[...] = (total[...] * scale).astype(d_query.dtype)


def _loop(first: Any, stop: Any, step: Any, start: Any, settings: KernelSettings) -> Any:
    """Runs the steps from first up to stop; a head of one block has only the diagonal, which is done already."""
    return start if settings.blocks == 1 else jax.lax.fori_loop(first, stop, step, start)


def _product(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """Sums a · b over one axis of each, in float32."""
    axes = (((a_axis,), (b_axis,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def _scores(query: jax.Array, key: jax.Array, diagonal: bool) -> jax.Array:
    """Returns scores [keys, queries]; the future is masked in a block on the diagonal, whose positions are the same."""
    scores = _product(key, query, FEATURES, FEATURES) * (query.shape[FEATURES] ** -0.5 * LOG2_E)
    return jnp.where(_visible(scores.shape), scores, -jnp.inf) if diagonal else scores


def _visible(shape: tuple[int, ...]) -> jax.Array:
    return _iota(QUERIES, shape) >= _iota(KEYS, shape)


def _iota(axis: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)


def _mask(stream: Any, settings: KernelSettings) -> Callable[[Any, Any, bool], jax.Array]:
    """Returns `dropout.keep_mask` of the program's head: (query block, key block) → the weights [keys, queries] kept.

    The hash takes index · multiplier + offset modulo 2³², the sum of a number of the query and a number of the key.
    """
    block, length = settings.block, settings.context_length
    batch, head = pl.program_id(0), pl.program_id(1).astype(jnp.uint32)
    offset, multiplier = stream[0, batch], stream[1, batch]
    head = head * head_stride(length)

    def keep(i: Any, j: Any, diagonal: bool) -> jax.Array:
        queries = (i * block + _iota(QUERIES, (1, block))).astype(jnp.uint32)
        keys = (j * block + _iota(KEYS, (block, 1))).astype(jnp.uint32)
        queries = (head + queries * jnp.uint32(length)) * multiplier + offset
        kept = mix(queries + keys * multiplier) >= threshold(settings.rate)
        # The future has no weight anyway, but a compiler that sees this hashes only half of the block.
        return kept & _visible(kept.shape) if diagonal else kept

    return keep


def _weights(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    cotangent: jax.Array,
    logsumexp: jax.Array,
    delta: jax.Array,
    kept: jax.Array | None,
    diagonal: bool,
) -> tuple[jax.Array, jax.Array]:
    """Returns the softmax weights after dropout and the gradient of the scores, both [keys, queries].

    Both are (1 − rate) times their true values, and so is `delta`, which is Σ output · cotangent of each query:
    dropout's factor is applied to the sums instead.
    """
    weights = jnp.exp2(_scores(query, key, diagonal) - logsumexp)
    d_weights = _product(value, cotangent, FEATURES, FEATURES)
    staying = weights
    if kept is not None:
        staying, d_weights = jnp.where(kept, weights, 0), jnp.where(kept, d_weights, 0)
    return staying.astype(cotangent.dtype), (weights * (d_weights - delta)).astype(query.dtype)
