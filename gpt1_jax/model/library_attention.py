"""Causal attention without dropout by the kernels that come with JAX: splash attention on TPUs, cuDNN's on GPUs.

Letters: B sequences, T positions, H heads, K head width.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec

LANES = 128  # splash takes T in multiples of it
CUDNN_WIDTH = 128  # cuDNN's greatest K on GPUs before Hopper

_HEADS = PartitionSpec(("data", "fsdp"), None, "tensor", None)


def attend(form: str, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """softmax(q kᵀ / √K, masked) v, under a mesh as `flash.flash_attention`.

    Args:
        form: "splash" or "cudnn".
        query, key, value: [B, T, H, K]; for cuDNN bfloat16.

    Returns:
        [B, T, H, K].
    """
    local = {"splash": _splash, "cudnn": _cudnn}[form]
    return jax.shard_map(local, in_specs=(_HEADS,) * 3, out_specs=_HEADS, check_vma=False)(query, key, value)


_cudnn = partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")


def _splash(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    length, heads, width = query.shape[1:]
    padded = -(-length // LANES) * LANES
    block = next(block for block in (512, 384, 256, LANES) if padded % block == 0)
    sizes = splash_attention.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        use_fused_bwd_kernel=True,
    )
    mask = splash_attention.MultiHeadMask([splash_attention.CausalMask((padded, padded))] * heads)
    kernel = splash_attention.make_splash_mha_single_device(mask, block_sizes=sizes)

    def enter(x: jax.Array) -> jax.Array:  # what is filled in lies in every position's future
        return jnp.pad(x, ((0, 0), (0, padded - length), (0, 0), (0, 0))).swapaxes(1, 2)

    output: Any = jax.vmap(kernel)(enter(query * width**-0.5), enter(key), enter(value))
    return output.swapaxes(1, 2)[:, :length]
