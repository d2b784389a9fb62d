"""Flash attention with the paper's dropout on its weights, forward and backward, on TPUs.

No scores are ever stored: a kernel holds a block of them, and of the dropout mask, which it computes there from the
keyed hash of `dropout.keep_mask`. Kept for the backward pass is one number a query, the log-sum-exp of its scores.

Letters: B sequences, T positions, H heads, K head width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gpt1_jax.model.attention import BEFORE, Sight
from gpt1_jax.model.dropout import Dropout
from gpt1_jax.model.kernels import pallas_kernels
from gpt1_jax.model.kernels.over_mesh import attend_locally
from gpt1_jax.model.kernels.pallas_kernels import KernelSettings

# Positions a kernel takes at a time, at most; they come in 128 lanes. The paper's T is one block, whose masked half the
# compiler leaves out by itself (docs/design.md).
LANES, BLOCK = 128, 512


def fits(length: int, width: int, dtype: str) -> bool:
    """Returns whether a TPU core can hold a program's data, most of which is whole heads [width, length].

    The limits were found by compiling for a TPU v4, whose cores have the least memory.
    """
    return width <= 256 and width * length * jnp.dtype(dtype).itemsize <= 2**20


def flash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    dropout: Dropout,
    sight: Sight = BEFORE,
    *,
    interpret: bool | pltpu.InterpretParams = False,
) -> jax.Array:
    """Computes `attention.plain_attention` by kernels: the same weights are dropped, and the softmax is in float32.

    Args:
        query, key, value: [B, T, H, K], float32 or bfloat16.
        dropout: of the weights.
        sight: causal and without groups; `choice.choose_attention` refuses another.
        interpret: whether the kernels are interpreted, which any platform can do, slowly; and how, as on which TPU.

    Returns:
        [B, T, H, K].
    """
    assert sight.causal and sight.groups is None
    settings = _settings(query.shape[1], dropout, interpret)

    def kernel(query: jax.Array, key: jax.Array, value: jax.Array, stream: jax.Array, _: Sight) -> jax.Array:
        return _attention(query, key, value, stream, settings)

    return attend_locally(kernel, query, key, value, dropout, sight)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(query, key, value, stream, settings):
    """Computes one device's part; stream: uint32 [2, B], the offset and the multiplier of each sequence's hash."""
    return _forward(query, key, value, stream, settings)[0]


def _forward(query, key, value, stream, settings):
    """Keeps the output [B, T, H, K] and the log-sum-exp of the scores, float32 [B, H, T]."""
    qkv = _together(query, key, value, settings)
    batch, _, heads, width, length = qkv.shape
    result = jax.ShapeDtypeStruct((batch, heads, width, length), qkv.dtype)
    row = jax.ShapeDtypeStruct((batch, heads, 1, length), jnp.float32)
    inputs, outputs = [OwnBlock(qkv, 0), Whole(qkv, 1), Whole(qkv, 2)], [OwnBlock(result), OwnBlock(row)]
    output, logsumexp = _call(pallas_kernels.forward, stream, inputs, outputs, settings)
    output, logsumexp = _leave(output, query), logsumexp[:, :, 0, : query.shape[1]]
    return output, (query, key, value, stream, output, logsumexp)


def _backward(settings, residuals, cotangent):
    """Returns the gradients of query, key and value."""
    query, key, value, stream, output, logsumexp = residuals
    qkv, do = _together(query, key, value, settings), _enter(cotangent, settings)
    products = output.astype(jnp.float32) * cotangent.astype(jnp.float32)
    delta = (1 - settings.rate) * products.sum(-1).swapaxes(1, 2)
    rows = [Whole(_pad(x, settings)[:, :, None]) for x in (logsumexp, delta)]
    inputs = [Whole(qkv, 0), OwnBlock(qkv, 1), OwnBlock(qkv, 2), Whole(do), *rows]
    like = jax.ShapeDtypeStruct(do.shape, do.dtype)
    outputs = [OwnBlock(like), OwnBlock(like), Whole(like)]
    total = pltpu.VMEM(do.shape[2:], jnp.float32)
    d_key, d_value, d_query = _call(pallas_kernels.backward, stream, inputs, outputs, settings, total)
    return _leave(d_query, query), _leave(d_key, key), _leave(d_value, value), None


_attention.defvjp(_forward, _backward)


class OwnBlock(NamedTuple):
    """An array [B, H, K or 1, T], or one part of an array [B, parts, H, K, T]: each program sees its own block of T."""

    array: Any
    part: int = 0


class Whole(NamedTuple):
    """As `OwnBlock`, but each program sees all of T."""

    array: Any
    part: int = 0


def _call(
    kernel: Callable[..., None],
    stream: jax.Array,
    inputs: Sequence[OwnBlock | Whole],
    outputs: Sequence[OwnBlock | Whole],
    settings: KernelSettings,
    *scratch: Any,
) -> list[jax.Array]:
    """Returns the outputs of a kernel, with one program for each sequence, head and block."""

    def spec(x: OwnBlock | Whole) -> pl.BlockSpec:
        *others, rows, length = x.array.shape
        parts = (x.part,) * (len(others) - 2)
        block = length if isinstance(x, Whole) else settings.block
        own = 0 if isinstance(x, Whole) else 1
        return pl.BlockSpec((*(None,) * len(others), rows, block), lambda b, h, i: (b, *parts, h, 0, own * i))

    return pl.pallas_call(
        partial(kernel, settings=settings),
        grid=(*outputs[0].array.shape[:2], settings.blocks),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), *map(spec, inputs)],
        out_specs=list(map(spec, outputs)),
        out_shape=[jax.ShapeDtypeStruct(x.array.shape, x.array.dtype) for x in outputs],
        scratch_shapes=list(scratch),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=settings.interpret,
        name=f"flash_{kernel.__name__}",
    )(stream, *(x.array for x in inputs))


def _settings(length: int, dropout: Dropout, interpret: bool | pltpu.InterpretParams) -> KernelSettings:
    """Returns the fewest blocks that hold T, no longer than necessary."""
    blocks = -(-length // BLOCK)
    block = -(-length // (blocks * LANES)) * LANES
    rate = dropout.rate if dropout.active else 0.0
    return KernelSettings(block, blocks, rate, dropout.context_length, interpret)


def _pad(x: jax.Array, settings: KernelSettings) -> jax.Array:
    """Pads x [..., T] to whole blocks; the padding lies in the future of every position and adds nothing."""
    fill = settings.block * settings.blocks - x.shape[-1]
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, fill),))


def _together(query: jax.Array, key: jax.Array, value: jax.Array, settings: KernelSettings) -> jax.Array:
    """Returns [B, 3, H, K, T], as the kernels store it.

    The three are parts of one array, the result of one product. XLA sees that and copies nothing, which it would do to
    hand each to a kernel by itself.
    """
    return _enter(jnp.stack([query, key, value], 2), settings)


def _enter(x: jax.Array, settings: KernelSettings) -> jax.Array:
    """Returns an array [B, T, …, H, K] as the kernels store it, [B, …, H, K, T]."""
    return _pad(jnp.moveaxis(x, 1, -1), settings)


def _leave(x: jax.Array, like: jax.Array) -> jax.Array:
    """Reverses `_enter`."""
    return x[..., : like.shape[1]].transpose(0, 3, 1, 2)
