"""Flash attention with the paper's dropout on its weights, forward and backward, on TPUs and GPUs.

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
from jax.sharding import PartitionSpec

from gpt1_jax.model import dropout, flash_kernels
from gpt1_jax.model.flash_kernels import Settings, head_stride

try:
    from jax.experimental.pallas import triton as pltriton
except ImportError:  # deprecated since jax 0.11: TPUs shall not need it
    pltriton = None

# Positions a kernel takes at a time, at most: on a TPU, where they come in 128 lanes, the paper's T is one block,
# whose masked half the compiler leaves out by itself (BUILD_NOTES.md).
LANES, TPU_BLOCK, GPU_BLOCK = 128, 512, 64
GPU_WIDTHS = (16, 32, 64, 128)  # Triton's blocks are powers of two

_HEADS = PartitionSpec(("data", "fsdp"), None, "tensor", None)
_STREAM = PartitionSpec(None, ("data", "fsdp"))


def fits(length: int, width: int, dtype: str) -> bool:
    """Whether a TPU core can hold what a program works on, whose greatest part are whole heads [width, length].

    By compiling for a TPU v4, whose cores have least.
    """
    return width <= 256 and width * length * jnp.dtype(dtype).itemsize <= 2**20


def flash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    noise: jax.Array | None,
    site: jax.Array | int,
    rate: float,
    context_length: int,
    interpret: bool = False,
) -> jax.Array:
    """`attention.causal_attention` by kernels: the same weights are dropped, and the softmax is in float32.

    Runs under a mesh with the axes data, fsdp and tensor: B is split over data and fsdp, H over tensor, and no device
    needs another's part.

    Args:
        query, key, value: [B, T, H, K], float32 or bfloat16.
        noise, site, rate, context_length: as in `attention.causal_attention`.
        interpret: whether the TPU's kernels are interpreted, which any platform can do, slowly.

    Returns:
        [B, T, H, K].
    """
    if noise is None or rate == 0:
        rate, stream = 0.0, jnp.zeros((2, len(query)), jnp.uint32)
    else:
        stream = jnp.stack(dropout.stream(noise, site))

    def local(query: jax.Array, key: jax.Array, value: jax.Array, stream: jax.Array) -> jax.Array:
        offset, multiplier = stream
        first = jax.lax.axis_index("tensor").astype(jnp.uint32) * query.shape[2]  # the index counts all heads
        offset = offset + first * head_stride(context_length) * multiplier
        return _attention(query, key, value, jnp.stack([offset, multiplier]), rate, context_length, interpret)

    return jax.shard_map(local, in_specs=(_HEADS,) * 3 + (_STREAM,), out_specs=_HEADS, check_vma=False)(
        query, key, value, stream
    )


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _attention(query, key, value, stream, rate, context_length, interpret):
    """One device's part; stream: uint32 [2, B], the offset and the multiplier of each sequence's hash."""
    return _forward(query, key, value, stream, rate, context_length, interpret)[0]


def _forward(query, key, value, stream, rate, context_length, interpret):
    run = partial(run_forward, rate=rate, context_length=context_length)
    output, logsumexp = _on_platform(run, interpret, query, key, value, stream)
    return output, (query, key, value, stream, output, logsumexp)


def _backward(rate, context_length, interpret, residuals, cotangent):
    run = partial(run_backward, rate=rate, context_length=context_length)
    return *_on_platform(run, interpret, *residuals, cotangent), None


_attention.defvjp(_forward, _backward)


def _on_platform(run: Callable[..., Any], interpret: bool, *arrays: jax.Array) -> Any:
    """run(*arrays) as the platform needs it that is compiled for, which may be another than the one at hand."""
    if interpret:
        return run(*arrays, gpu=False, interpret=True)
    platforms = {"tpu": partial(run, gpu=False)}
    if pltriton is not None:
        platforms["cuda"] = partial(run, gpu=True)
    return jax.lax.platform_dependent(*arrays, **platforms)


def run_forward(query, key, value, stream, *, rate, context_length, gpu, interpret=False):
    """Returns the output [B, T, H, K] and the log-sum-exp of the scores, float32 [B, H, T]."""
    settings = _settings(query.shape[1], rate, context_length, gpu)
    q, k, v = (_enter(x, settings) for x in (query, key, value))
    row = jax.ShapeDtypeStruct((*q.shape[:2], 1, q.shape[3]), jnp.float32)
    output, logsumexp = _call(
        flash_kernels.forward,
        stream,
        inputs=[Block(q), Whole(k), Whole(v)],
        outputs=[Block(q), Block(row)],
        settings=settings,
        gpu=gpu,
        interpret=interpret,
    )
    return _leave(output, query), logsumexp[:, :, 0, : query.shape[1]]


def run_backward(
    query, key, value, stream, output, logsumexp, cotangent, *, rate, context_length, gpu, interpret=False
):
    """Returns the gradients of query, key and value."""
    settings = _settings(query.shape[1], rate, context_length, gpu)
    call = partial(_call, settings=settings, gpu=gpu, interpret=interpret)
    q, k, v, do = (_enter(x, settings) for x in (query, key, value, cotangent))
    products = output.astype(jnp.float32) * cotangent.astype(jnp.float32)
    delta = (1 - rate) * products.sum(-1).swapaxes(1, 2)
    rows = [_pad(x, settings)[:, :, None] for x in (logsumexp, delta)]
    for_keys = [Whole(q), Block(k), Block(v), Whole(do), *map(Whole, rows)]
    if gpu:  # programs run side by side: none can add to what another one has begun
        for_queries = [Block(q), Whole(k), Whole(v), Block(do), *map(Block, rows)]
        d_key, d_value = call(flash_kernels.backward, stream, for_keys, [Block(k), Block(v)])
        (d_query,) = call(flash_kernels.backward_queries, stream, for_queries, [Block(q)])
    else:
        total = pltpu.VMEM(q.shape[2:], jnp.float32)
        gradients = [Block(k), Block(v), Whole(q)]
        d_key, d_value, d_query = call(flash_kernels.backward, stream, for_keys, gradients, [total])
    return _leave(d_query, query), _leave(d_key, key), _leave(d_value, value)


class Block(NamedTuple):
    """An array [B, H, K or 1, T] of which each program sees its own block of T."""

    array: Any


class Whole(NamedTuple):
    """An array [B, H, K or 1, T] of which each program sees all of T."""

    array: Any


def _call(
    kernel: Callable[..., None],
    stream: jax.Array,
    inputs: Sequence[Block | Whole],
    outputs: Sequence[Block | Whole],
    scratch: Sequence[Any] = (),
    *,
    settings: Settings,
    gpu: bool,
    interpret: bool,
) -> list[jax.Array]:
    """The kernel's outputs, one program for each sequence, head and block."""

    def spec(x: Block | Whole) -> pl.BlockSpec:
        *_, rows, length = x.array.shape
        if isinstance(x, Whole):
            return pl.BlockSpec((None, None, rows, length), lambda b, h, i: (b, h, 0, 0))
        return pl.BlockSpec((None, None, rows, settings.block), lambda b, h, i: (b, h, 0, i))

    if gpu:
        assert pltriton is not None
        scalars: Any = pl.ANY
        params: Any = pltriton.CompilerParams(num_warps=4, num_stages=2)
    else:
        scalars = pltpu.SMEM
        params = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))
    return pl.pallas_call(
        partial(kernel, settings=settings),
        grid=(*inputs[0].array.shape[:2], settings.blocks),
        in_specs=[pl.BlockSpec(memory_space=scalars), *map(spec, inputs)],
        out_specs=list(map(spec, outputs)),
        out_shape=[jax.ShapeDtypeStruct(x.array.shape, x.array.dtype) for x in outputs],
        scratch_shapes=list(scratch),
        compiler_params=params,
        interpret=interpret,
        name=f"flash_{kernel.__name__}",
    )(stream, *(x.array for x in inputs))


def _settings(length: int, rate: float, context_length: int, gpu: bool) -> Settings:
    """As few blocks as hold T, and on a TPU no longer than that needs."""
    blocks = -(-length // (GPU_BLOCK if gpu else TPU_BLOCK))
    block = GPU_BLOCK if gpu else -(-length // (blocks * LANES)) * LANES
    return Settings(block, blocks, rate, context_length)


def _pad(x: jax.Array, settings: Settings) -> jax.Array:
    """x [..., T] with T filled up to whole blocks. What is filled in lies in everyone's future and adds nothing."""
    fill = settings.block * settings.blocks - x.shape[-1]
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, fill),))


def _enter(x: jax.Array, settings: Settings) -> jax.Array:
    """[B, T, H, K] as the kernels have it, [B, H, K, T]."""
    return _pad(x.transpose(0, 2, 3, 1), settings)


def _leave(x: jax.Array, like: jax.Array) -> jax.Array:
    """What `_enter` made, undone."""
    return x[..., : like.shape[1]].transpose(0, 3, 1, 2)
