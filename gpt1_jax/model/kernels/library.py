"""Causal attention without dropout by the kernels that come with JAX: splash attention on TPUs, cuDNN's on GPUs.

Letters: B sequences, T positions, H heads, K head width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec

from gpt1_jax.model.dropout import Dropout

# Splash takes T in multiples of it.
LANES = 128
# cuDNN's greatest K on GPUs before Hopper.
CUDNN_WIDTH = 128

_HEADS = PartitionSpec(("data", "fsdp"), None, "tensor", None)


def attention(
    kernel: Callable[..., jax.Array], query: jax.Array, key: jax.Array, value: jax.Array, dropout: Dropout
) -> jax.Array:
    """softmax(q kᵀ / √K, masked) v, under a mesh as `flash.flash_attention`.

    Args:
        kernel: `splash` or `cudnn`.
        query, key, value: [B, T, H, K]; for cuDNN bfloat16.
        dropout: not active; `choice.choose_attention` refuses another.

    Returns:
        [B, T, H, K].
    """
    assert not dropout.active
    return jax.shard_map(kernel, in_specs=(_HEADS,) * 3, out_specs=_HEADS, check_vma=False)(query, key, value)


def _filled(x: jax.Array, multiple: int) -> jax.Array:
    """[B, T, H, K] with T a multiple; what is filled in lies in every position's future."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0)))


def cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """One GPU's part by cuDNN's kernel."""
    # Backward, JAX refuses an odd T.
    q, k, v = (_filled(x, 2) for x in (query, key, value))
    output = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    return output[:, : query.shape[1]]


def splash(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """One TPU core's part by splash attention."""
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
    mask = splash_attention.MultiHeadMask([splash_attention.CausalMask((length, length))] * heads)
    kernel = splash_attention.make_splash_mha_single_device(mask, block_sizes=sizes)
    output: Any = jax.vmap(kernel)(q, k, v)
    return output.swapaxes(1, 2)[:, : query.shape[1]]
