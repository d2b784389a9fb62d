"""The GPT-1 decoder (the paper's section 3.1, the authors' `model`), as pure functions through linen.

Letters: B sequences, T positions, D width, H heads, K head width, F hidden, V vocabulary, L layers,
C context length. Parameters of the blocks are stacked [L, ...].
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.config import ModelConfig
from gpt1_jax.model.dropout import EMBEDDING_SITE, Dropout, layer_sites
from gpt1_jax.model.embedding import lookup, token_table
from gpt1_jax.model.kernels.choice import FORMS
from gpt1_jax.model.layers import (
    activated_product,
    batch_sharded,
    constrained,
    layer_norm,
    normal,
    ones,
    parameter,
    zeros,
)


def parameter_count(params: Any, vocab_size: int) -> int:
    """The number of parameters, of a trunk or one with a head, without the token table's padding."""
    rows, width = params.get("trunk", params)["tokens"].shape
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    return total - (rows - vocab_size) * width


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
        residual = Dropout(noise, output_site, config.residual_dropout, config.context_length)

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
        if attend is None:
            dropout = residual.at(attention_site, config.attention_dropout)
            attended, kept = FORMS[config.attention](query, key, value, dropout), None
        else:
            attended, kept = attend(query, key, value)
        attended = jnp.einsum("bthk,hkd->btd", attended, out_kernel.astype(dtype)) + out_bias.astype(dtype)
        attended = residual.states(attended)
        x = batch_sharded(layer_norm(x + attended, norm_1_scale, norm_1_bias))

        hidden_state = x @ in_kernel.astype(dtype) + in_bias.astype(dtype)
        output = activated_product(hidden_state, mlp_kernel.astype(dtype)) + mlp_bias.astype(dtype)
        output = residual.at(mlp_site, config.residual_dropout).states(output)
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
        dropout = Dropout(noise, EMBEDDING_SITE, config.embedding_dropout, config.context_length)
        x = batch_sharded(dropout.states(x))

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
