"""The GPT-1 decoder (the paper's section 3.1, the authors' `model`), as pure functions through linen.

Letters: B sequences, T positions, D width, H heads, K head width, F hidden, V vocabulary, L layers,
C context length. Parameters of the blocks are stacked [L, ...].
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import spmd
from jax.sharding import PartitionSpec

from gpt1_jax.config import ModelConfig
from gpt1_jax.model.attention import causal_attention
from gpt1_jax.model.dropout import EMBEDDING_SITE, dropout, grid_index, layer_sites
from gpt1_jax.model.recomputed import after, recomputed

INIT_STDDEV = 0.02
LAYER_NORM_EPSILON = 1e-5
SPECIALS = 3  # start, delimiter, extract: fine-tuning puts them in the token table's padding
TABLE_MULTIPLE = 128

normal = nn.initializers.normal(INIT_STDDEV)
zeros, ones = nn.initializers.zeros, nn.initializers.ones


def table_rows(vocab_size: int) -> int:
    """Rows of the token table: V and the specials, padded so that they divide on any usual mesh."""
    return -(-(vocab_size + SPECIALS) // TABLE_MULTIPLE) * TABLE_MULTIPLE


def parameter_count(params: Any, vocab_size: int) -> int:
    """The number of parameters, of a trunk or one with a head, without the token table's padding."""
    rows, width = params.get("trunk", params)["tokens"].shape
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    return total - (rows - vocab_size) * width


@recomputed
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., D] normalized over D with the biased variance, computed in float32."""
    dtype = x.dtype
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)
    return (x * scale + bias).astype(dtype)


@recomputed
def activated_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """gelu(x) · kernel, by the authors' approximation of GELU; x [B, T, F], kernel [F, D] → [B, T, D]."""
    return constrained(jax.nn.gelu(x, approximate=True), "batch", None, "mlp") @ kernel


def lookup(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows of a table that lies split over the mesh: each device finds those it holds, tensor adds them up.

    Args:
        table: [V, D], split over (tensor, fsdp).
        tokens: int32 [B, T], split over data and fsdp.

    Returns:
        [B, T, D].
    """

    def local(table: jax.Array, tokens: jax.Array) -> jax.Array:
        if jax.lax.axis_size("fsdp") > 1:  # gathering from one device still copies
            table = jax.lax.all_gather(table, "fsdp", axis=1, tiled=True)
        rows = tokens - jax.lax.axis_index("tensor") * table.shape[0]
        rows = jnp.where(
            rows < 0, table.shape[0], rows
        )  # out of range either way: filled with 0, no gradient
        return jax.lax.psum(take_rows(table, rows), "tensor")

    batch = PartitionSpec(("data", "fsdp"))
    return jax.shard_map(
        local, in_specs=(PartitionSpec("tensor", "fsdp"), batch), out_specs=batch, check_vma=False
    )(table, tokens)


@jax.custom_vjp
def take_rows(table: jax.Array, rows: jax.Array) -> jax.Array:
    """table[rows], with zeros where there is no such row; CPUs keep no zeros for its gradient until that is there."""
    return table.at[rows].get(mode="fill", fill_value=0)


def _take_forward(table: jax.Array, rows: jax.Array) -> tuple[jax.Array, Any]:
    return take_rows(table, rows), (table, rows)


def _take_backward(arguments: Any, gradient: jax.Array) -> tuple[jax.Array, None]:
    table, rows = arguments
    nothing = after(jnp.zeros_like(table), gradient.ravel()[0])
    return nothing.at[rows].add(gradient, mode="drop"), None


take_rows.defvjp(_take_forward, _take_backward)


def parameter(
    module: nn.Module, name: str, axes: tuple[str | None, ...], init: Any, *shape: int
) -> jax.Array:
    """A float32 parameter of a module, its logical axes named; call it where the module is called."""
    return cast(jax.Array, module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32))


def token_table(module: nn.Module, vocab_size: int, specials: int, width: int) -> jax.Array:
    """A trunk's parameter "tokens" [V, D], of which the rows beyond the specials are padding."""

    def init(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
        real = jnp.arange(shape[0])[:, None] < vocab_size + specials
        return jnp.where(real, normal(key, shape, dtype), 0)  # padding stays exactly zero

    return parameter(module, "tokens", ("vocab", "embed"), init, table_rows(vocab_size), width)


def constrained(x: jax.Array, *axes: str | None) -> jax.Array:
    """x, split over the mesh by its logical axes."""
    return cast(jax.Array, spmd.with_logical_constraint(x, axes))


def batch_sharded(x: jax.Array) -> jax.Array:
    """x [B, ...], split over the mesh by its sequences alone."""
    return constrained(x, "batch", *(None,) * (x.ndim - 1))


def remat_policy(config: ModelConfig) -> Callable[..., bool] | None:
    """What `config.remat`, where it is not "none", keeps for the backward pass: None is nothing."""
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable if config.remat == "dots" else None


class Block(nn.Module):
    """One post-norm block: n = norm(x + attention(x)), then norm(n + mlp(n))."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        layer: jax.Array,
        noise: jax.Array | None,
        attend: Callable[..., tuple[jax.Array, Any]] | None = None,
    ) -> tuple[jax.Array, Any]:
        """x [B, T, D] → [B, T, D].

        Args:
            x: the states.
            layer: counts from 0.
            noise: uint32 [B], or None for no dropout.
            attend: attention of another form, (query, key, value [B, T, H, K]) → ([B, T, H, K], what it keeps).

        Returns:
            The states, and what `attend` keeps.
        """
        config, dtype = self.config, x.dtype
        width, heads, hidden = config.d_model, config.num_heads, config.d_ff
        head_width = width // heads
        attention_site, output_site, mlp_site = layer_sites(layer)
        index = grid_index((jnp.arange(x.shape[1]), width), (jnp.arange(width), 1))

        qkv_kernel = parameter(
            self, "qkv_kernel", ("embed", None, "heads", None), normal, width, 3, heads, head_width
        )
        qkv_bias = parameter(self, "qkv_bias", (None, "heads", None), zeros, 3, heads, head_width)
        out_kernel = parameter(self, "out_kernel", ("heads", None, "embed"), normal, heads, head_width, width)
        out_bias = parameter(self, "out_bias", ("embed",), zeros, width)
        norm_1_scale = parameter(self, "norm_1_scale", ("embed",), ones, width)
        norm_1_bias = parameter(self, "norm_1_bias", ("embed",), zeros, width)
        in_kernel = parameter(self, "mlp_in_kernel", ("embed", "mlp"), normal, width, hidden)
        in_bias = parameter(self, "mlp_in_bias", ("mlp",), zeros, hidden)
        mlp_kernel = parameter(self, "mlp_out_kernel", ("mlp", "embed"), normal, hidden, width)
        mlp_bias = parameter(self, "mlp_out_bias", ("embed",), zeros, width)
        norm_2_scale = parameter(self, "norm_2_scale", ("embed",), ones, width)
        norm_2_bias = parameter(self, "norm_2_bias", ("embed",), zeros, width)

        qkv = jnp.einsum("btd,dchk->btchk", x, qkv_kernel.astype(dtype)) + qkv_bias.astype(dtype)
        qkv = constrained(qkv, "batch", None, None, "heads", None)
        query, key, value = (qkv[:, :, i] for i in range(3))
        if attend is not None:
            attended, kept = attend(query, key, value)
        else:
            kept = None
            attended = causal_attention(
                query,
                key,
                value,
                noise=noise,
                site=attention_site,
                rate=config.attention_dropout,
                context_length=config.context_length,
                form=config.attention,
            )
        attended = jnp.einsum("bthk,hkd->btd", attended, out_kernel.astype(dtype)) + out_bias.astype(dtype)
        attended = dropout(attended, noise, output_site, index, config.residual_dropout)
        x = batch_sharded(layer_norm(x + attended, norm_1_scale, norm_1_bias))

        hidden_state = x @ in_kernel.astype(dtype) + in_bias.astype(dtype)
        output = activated_product(hidden_state, mlp_kernel.astype(dtype)) + mlp_bias.astype(dtype)
        output = dropout(output, noise, mlp_site, index, config.residual_dropout)
        return batch_sharded(layer_norm(x + output, norm_2_scale, norm_2_bias)), kept


class Transformer(nn.Module):
    """Tokens to the final block's states; the output weights are the token table itself."""

    config: ModelConfig
    vocab_size: int  # the tokenizer's pieces; more rows are there for the specials
    specials: int = 0  # of those rows, how many are in use

    @nn.compact
    def __call__(self, tokens: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        """The final states.

        Args:
            tokens: int32 [B, T], T ≤ C, ids below the table's rows.
            noise: uint32 [B], the dropout seed of each sequence; None for no dropout.

        Returns:
            [B, T, D] in config.dtype.
        """
        config = self.config
        width, length = config.d_model, tokens.shape[1]

        table = token_table(self, self.vocab_size, self.specials, width)
        positions = parameter(self, "positions", (None, "embed"), normal, config.context_length, width)
        x = (lookup(table, tokens) + positions[:length]).astype(config.dtype)
        index = grid_index((jnp.arange(length), width), (jnp.arange(width), 1))
        x = batch_sharded(dropout(x, noise, EMBEDDING_SITE, index, config.embedding_dropout))

        block: Any = Block
        if config.remat != "none":
            block = nn.remat(Block, prevent_cse=False, policy=remat_policy(config))
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=cast(Any, (0, nn.broadcast)),
            length=config.num_layers,
            unroll=config.unroll or (config.num_layers if config.remat == "none" else 1),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = blocks(config, name="blocks")(x, jnp.arange(config.num_layers), noise)
        return x
