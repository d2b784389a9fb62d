"""Attention without dropout by the kernels that come with JAX: splash attention on TPUs, cuDNN's on GPUs.

Letters: B sequences, T positions, H heads, K head width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gpt1_jax.model.attention import BEFORE, Sight
from gpt1_jax.model.dropout import Dropout

# Splash attention takes multiples of this T.
LANES = 128
# The greatest K of cuDNN on GPUs before Hopper.
CUDNN_WIDTH = 128

_BATCH = ("data", "fsdp")
_HEADS = PartitionSpec(_BATCH, None, "tensor", None)
# The group of positions that fill up T.
_NOTHING = -(2**31)


def attention(
    kernel: Callable[..., jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    dropout: Dropout,
    sight: Sight = BEFORE,
) -> jax.Array:
    """Computes softmax(q kᵀ / √K, masked) v under a mesh, as `over_mesh.attend_locally` does.

    Args:
        kernel: `splash` or `cudnn`.
        query, key, value: [B, T, H, K], in bfloat16 for cuDNN.
        dropout: must not be active, which `choice.choose_attention` ensures.
        sight: for cuDNN without groups, as `choice.choose_attention` makes sure.

    Returns:
        [B, T, H, K].
    """
    assert not dropout.active
    places = (_HEADS,) * 3 + (PartitionSpec(_BATCH),)
    return jax.shard_map(kernel, in_specs=places, out_specs=_HEADS, check_vma=False)(query, key, value, sight)


def _filled(x: jax.Array, multiple: int) -> jax.Array:
    """Pads [B, T, H, K] to a multiple of T."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0)))


def cudnn(query: jax.Array, key: jax.Array, value: jax.Array, sight: Sight) -> jax.Array:
    """Computes one GPU's part by cuDNN's kernel."""
    batch, length = query.shape[:2]
    # The backward pass refuses an odd T. What is filled in lies in every position's future, or behind the keys' length.
    q, k, v = (_filled(x, 2) for x in (query, key, value))
    real = None if sight.causal or length % 2 == 0 else jnp.full(batch, length)
    output = jax.nn.dot_product_attention(
        q, k, v, is_causal=sight.causal, key_value_seq_lengths=real, implementation="cudnn"
    )
    return output[:, :length]


def splash(query: jax.Array, key: jax.Array, value: jax.Array, sight: Sight) -> jax.Array:
    """Computes one TPU core's part by splash attention."""
    # Imported late: only TPUs need it, and it takes a quarter of a second.
    from jax.experimental.pallas.ops.tpu import splash_attention

    q, k, v = (_filled(x, LANES).swapaxes(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    heads, length = q.shape[1:3]
    block = next(block for block in (512, 384, 256, LANES) if length % block == 0)
    sizes = splash_attention.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        use_fused_bwd_kernel=True,
    )
    seen = splash_attention.CausalMask if sight.causal else splash_attention.FullMask
    mask = splash_attention.MultiHeadMask([seen((length, length))] * heads)
    kernel = splash_attention.make_splash_mha_single_device(mask, block_sizes=sizes)
    groups = sight.groups
    if groups is None and not sight.causal and length > query.shape[1]:
        groups = jnp.zeros(query.shape[:2], jnp.int32)
    segments = None
    if groups is not None:
        # In causal attention without groups, what is filled in lies in every position's future.
        fill = ((0, 0), (0, length - query.shape[1]))
        segments = splash_attention.SegmentIds(*(jnp.pad(groups, fill, constant_values=_NOTHING),) * 2)
    output: Any = jax.vmap(kernel)(q, k, v, segments)
    return output.swapaxes(1, 2)[:, : query.shape[1]]
