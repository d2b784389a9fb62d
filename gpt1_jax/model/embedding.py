"""The token table, through which a trunk reads and predicts: one parameter, on any mesh.

Letters: B sequences, T positions, D width, V rows of the table, padding included.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from gpt1_jax.config import ModelConfig
from gpt1_jax.cpu import take_rows
from gpt1_jax.model.dropout import embedding_dropout
from gpt1_jax.model.layers import batch_sharded, parameter
from gpt1_jax.model.specials import SPECIALS

TABLE_MULTIPLE = 128


def table_rows(vocab_size: int) -> int:
    """Returns the number of rows of the token table: pieces and specials, padded to divide over any usual mesh."""
    return -(-(vocab_size + SPECIALS) // TABLE_MULTIPLE) * TABLE_MULTIPLE


def token_table(module: nn.Module, vocab_size: int, specials: int, width: int, start: Any) -> jax.Array:
    """Makes a trunk's parameter "tokens" [V, D], whose rows after the specials are padding; `start` initializes it."""

    def init(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
        real = jnp.arange(shape[0])[:, None] < vocab_size + specials
        # Padding stays exactly zero.
        return jnp.where(real, start(key, shape, dtype), 0)

    return parameter(module, "tokens", ("vocab", "embed"), init, table_rows(vocab_size), width)


def lookup(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Looks up rows of a table that is split over the mesh: each device finds those it holds, and tensor sums them.

    Args:
        table: [V, D], split over (tensor, fsdp).
        tokens: int32 [B, T], split over data and fsdp.

    Returns:
        [B, T, D].
    """

    def local(table: jax.Array, tokens: jax.Array) -> jax.Array:
        return jax.lax.psum(rows_here(whole_rows(table), tokens), "tensor")

    batch = PartitionSpec(("data", "fsdp"))
    return jax.shard_map(
        local, in_specs=(PartitionSpec("tensor", "fsdp"), batch), out_specs=batch, check_vma=False
    )(table, tokens)


def rows_here(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Looks up rows in a device's part of a table over tensor, [v, D]; those of other devices are zeros."""
    rows = tokens - jax.lax.axis_index("tensor") * table.shape[0]
    # Rows of other devices are out of range, below or above; they are filled with 0 and get no gradient.
    return take_rows(table, jnp.where(rows < 0, table.shape[0], rows))


def select(table: jax.Array, rows: jax.Array) -> jax.Array:
    """Looks up rows of a small table [N, D] by a product, which any mesh splits well: int32 [B, T] → [B, T, D]."""
    return jnp.matmul(jax.nn.one_hot(rows, len(table)), table, precision=jax.lax.Precision.HIGHEST)


def whole_rows(table: jax.Array) -> jax.Array:
    """Gathers a device's part of a table over fsdp, [v, d] → [v, D]."""
    # Gathering from a single device would still copy.
    return jax.lax.all_gather(table, "fsdp", axis=1, tiled=True) if jax.lax.axis_size("fsdp") > 1 else table


def embedded(x: jax.Array, config: ModelConfig, noise: jax.Array | None) -> jax.Array:
    """Returns embeddings [B, T, D] as a trunk's first layer reads them: in config.dtype, with dropout."""
    return batch_sharded(embedding_dropout(config, noise).states(x.astype(config.dtype)))


def project(states: jax.Array, table: jax.Array) -> jax.Array:
    """Returns logits by the table: states [..., D] and table [V, D] of the same dtype → float32 [..., V]."""
    return jnp.einsum("...d,vd->...v", states, table, preferred_element_type=jnp.float32)
