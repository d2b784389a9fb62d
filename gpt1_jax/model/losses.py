"""Cross-entropy with the tied output table, on any mesh, without ever holding all logits.

Letters: B sequences, T positions, D width, V rows of the token table, padding included.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from gpt1_jax.cpu import late_zeros
from gpt1_jax.gpu import LOGITS_AT_ONCE, on_gpu, softmax_sums
from gpt1_jax.model.embedding import project, rows_here, whole_rows
from gpt1_jax.tpu import logits_at_once, on_tpu, sums_of_rounded

# Each device holds this many rows of logits at once (docs/measured.md).
CHUNK_ROWS = 512
MASKED = -1e30

_BATCH = ("data", "fsdp")
_HIDDEN = PartitionSpec(_BATCH, None, None)
_TABLE = PartitionSpec("tensor", "fsdp")
_TARGETS = PartitionSpec(_BATCH, None)
_BIAS = PartitionSpec("tensor")


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def tied_cross_entropy(
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    vocab_size: int,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Returns Σ weights · (−log softmax(hidden · tableᵀ + bias)[targets]), a softmax over the first vocab_size rows.

    Runs under a mesh with the axes data, fsdp and tensor: B is split over data and fsdp, V over tensor, D of
    the table over fsdp. The only collectives within the loop over T are two over tensor.

    Args:
        hidden: [B, T, D].
        table: float32 [V, D].
        targets: int32 [B, T], below vocab_size.
        weights: float32 [B, T].
        vocab_size: the number of rows that are tokens; the others are padding and get no probability.
        bias: float32 [V], or None for no bias.

    Returns:
        float32 scalar.
    """
    return _sharded(vocab_size, gradient=False)(hidden, table, targets, weights, bias)[0]


def _forward(hidden, table, targets, weights, vocab_size, bias):
    """Computes the gradient along with the loss, which is linear in its cotangent."""
    loss, *gradients = _sharded(vocab_size, gradient=True)(hidden, table, targets, weights, bias)
    return loss, gradients


def _backward(vocab_size, gradients, cotangent):
    d_hidden, d_table, d_bias = jax.tree.map(lambda x: (cotangent * x).astype(x.dtype), gradients)
    return d_hidden, d_table, None, None, d_bias


tied_cross_entropy.defvjp(_forward, _backward)


def _sharded(vocab_size: int, gradient: bool) -> Callable[..., Any]:
    return jax.shard_map(
        partial(_local_loss, vocab_size=vocab_size, gradient=gradient),
        in_specs=(_HIDDEN, _TABLE, _TARGETS, _TARGETS, _BIAS),
        out_specs=(PartitionSpec(), _HIDDEN, _TABLE, _BIAS) if gradient else (PartitionSpec(),),
        check_vma=False,
    )


def _local_loss(hidden, table, targets, weights, bias, *, vocab_size: int, gradient: bool) -> tuple[Any, ...]:
    """Computes one device's part: hidden [b, T, D], table [v, d], targets and weights [b, T], bias [v] or None."""
    dtype = hidden.dtype
    table = whole_rows(table.astype(dtype))
    rows = jax.lax.axis_index("tensor") * table.shape[0] + jnp.arange(table.shape[0])
    by_product = gradient and bias is None and on_tpu(dtype)
    sequences, length = targets.shape
    chunks = -(-length // max(1, rows_at_once() // sequences))
    chunk = -(-length // chunks)
    padding = chunks * chunk - length

    # [b, T, ...] → [chunks, b · chunk, ...]; padded positions have weight 0.
    def split(x):
        x = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
        x = x.reshape(sequences, chunks, chunk, *x.shape[2:]).swapaxes(0, 1)
        return x.reshape(chunks, sequences * chunk, *x.shape[3:])

    def step(carry, inputs):
        loss, d_table, d_bias = carry
        h, target, weight = inputs
        logits = project(h, table)
        if bias is not None:
            logits = logits + bias
        logits = jnp.where(rows < vocab_size, logits, MASKED)
        hit = rows == target[:, None]
        if on_gpu():
            here, total, target_logit = softmax_sums(logits, hit)
            top = jax.lax.pmax(here, "tensor")
            total = total * jnp.exp(here - top)
            exponentials = jnp.exp(logits - top[:, None])
        else:
            top = jax.lax.pmax(logits.max(-1), "tensor")
            exponentials = jnp.exp(logits - top[:, None])
            if by_product:
                total = sums_of_rounded(exponentials)
                target_row = rows_here(table, target).astype(jnp.float32)
                target_logit = (h.astype(jnp.float32) * target_row).sum(-1)
            else:
                total, target_logit = exponentials.sum(-1), jnp.where(hit, logits, 0).sum(-1)
        total, target_logit = _psum(jnp.stack([total, target_logit]), "tensor")
        loss = loss + (weight * (jnp.log(total) + top - target_logit)).sum()
        if not gradient:
            return (loss, d_table, d_bias), None
        d_logits = exponentials * (weight / total)[:, None] - jnp.where(hit, weight[:, None], 0)
        if bias is not None:
            d_bias = d_bias + d_logits.sum(0)
        d_logits = d_logits.astype(dtype)
        d_table = d_table + jnp.einsum("nv,nd->vd", d_logits, h, preferred_element_type=jnp.float32)
        return (loss, d_table, d_bias), d_logits @ table

    d_table = late_zeros(table.shape, jnp.float32, hidden) if gradient else None
    d_bias = jnp.zeros_like(bias) if gradient and bias is not None else None
    initial: Any = (jnp.float32(0), d_table, d_bias)
    (loss, d_table, d_bias), d_hidden = jax.lax.scan(
        step, initial, (split(hidden), split(targets), split(weights))
    )
    loss = jax.lax.psum(loss, _BATCH)
    if not gradient:
        return (loss,)
    assert d_hidden is not None
    d_hidden = d_hidden.reshape(chunks, sequences, chunk, -1).swapaxes(0, 1)
    d_hidden = d_hidden.reshape(sequences, chunks * chunk, -1)[:, :length]
    d_hidden, d_table = _psum(d_hidden, "tensor"), _psum(d_table, "data")
    if jax.lax.axis_size("fsdp") > 1:
        d_table = jax.lax.psum_scatter(d_table, "fsdp", scatter_dimension=1, tiled=True)
    if d_bias is not None:
        d_bias = jax.lax.psum(d_bias, _BATCH)
    return loss, d_hidden, d_table, d_bias


def rows_at_once() -> int:
    """Returns how many rows of logits each device holds at once."""
    return LOGITS_AT_ONCE if on_gpu() else logits_at_once(CHUNK_ROWS)


def _psum(x: jax.Array, axis: str) -> jax.Array:
    """Returns the sum over an axis, or x itself for a single device, for which a sum would still copy."""
    return jax.lax.psum(x, axis) if jax.lax.axis_size(axis) > 1 else x


def token_log_probabilities(
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    vocab_size: int,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Returns log softmax(hidden · tableᵀ + bias)[targets] at each position, for measurements.

    Args:
        hidden: [B, T, D].
        table, targets, vocab_size, bias: as in `tied_cross_entropy`.

    Returns:
        float32 [B, T].
    """
    sequences, length = targets.shape
    chunk = max(1, rows_at_once() // sequences)
    tokens = table[:vocab_size].astype(hidden.dtype)
    parts = []
    for start in range(0, length, chunk):
        h, target = hidden[:, start : start + chunk], targets[:, start : start + chunk]
        logits = project(h, tokens)
        if bias is not None:
            logits = logits + bias[:vocab_size]
        parts.append(-optax.softmax_cross_entropy_with_integer_labels(logits, target))
    return jnp.concatenate(parts, axis=1)
