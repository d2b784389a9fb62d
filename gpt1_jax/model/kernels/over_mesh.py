"""How a kernel of attention with dropout runs on a mesh: each device computes its own sequences and heads.

Letters: B sequences, T positions, H heads, K head width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gpt1_jax.model.attention import Sight
from gpt1_jax.model.dropout import Dropout, head_stride, stream

_BATCH = PartitionSpec(("data", "fsdp"))
_HEADS = PartitionSpec(("data", "fsdp"), None, "tensor", None)
_STREAM = PartitionSpec(None, ("data", "fsdp"))


def attend_locally(
    kernel: Callable[..., jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    dropout: Dropout,
    sight: Sight,
) -> jax.Array:
    """Runs a kernel under a mesh with the axes data, fsdp and tensor; no device needs another's part.

    Args:
        kernel: (query, key, value, stream, sight) → what a device's heads attend to, where stream is uint32 [2, B], the
            offset and the multiplier of each sequence's hash, counted from the device's first head; see
            `dropout.stream`.
        query, key, value: [B, T, H, K], B split over data and fsdp, H over tensor.
        dropout: of the weights; an inactive one has a stream of zeros.
        sight: what a position sees.

    Returns:
        [B, T, H, K].
    """
    if dropout.active:
        assert dropout.noise is not None
        keys = jnp.stack(stream(dropout.noise, dropout.site))
    else:
        keys = jnp.zeros((2, len(query)), jnp.uint32)

    def local(query: jax.Array, key: jax.Array, value: jax.Array, keys: jax.Array, sight: Sight) -> jax.Array:
        offset, multiplier = keys
        # The index counts the heads of all devices.
        first = jax.lax.axis_index("tensor").astype(jnp.uint32) * query.shape[2]
        offset = offset + first * head_stride(dropout.context_length) * multiplier
        return kernel(query, key, value, jnp.stack([offset, multiplier]), sight)

    places = (*(_HEADS,) * 3, _STREAM, _BATCH)
    run = jax.shard_map(local, in_specs=places, out_specs=_HEADS, check_vma=False)
    return run(query, key, value, keys, sight)
