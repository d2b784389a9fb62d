"""The GPT-1 decoder (the paper's section 3.1, the authors' `model`), as pure functions through linen.

Letters: B sequences, T positions, D width, H heads, K head width, F hidden, V vocabulary, L layers, C context length.
The blocks' parameters are stacked [L, ...].
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.config import ModelConfig
from gpt1_jax.model.dropout import LayerDropouts, layer_dropouts
from gpt1_jax.model.embedding import embedded, lookup, token_table
from gpt1_jax.model.kernels.choice import Attention, attention_in_use
from gpt1_jax.model.layers import (
    activated_product,
    batch_sharded,
    constrained,
    layer_norm,
    normal,
    ones,
    parameter,
    remat_policy,
    zeros,
)

# (query, key, value [B, T, H, K]) → (what they attend to [B, T, H, K], what is kept for later positions)
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


def parameter_count(params: Any, vocab_size: int) -> int:
    """Returns the number of parameters of a trunk, with or without a head, leaving out the token table's padding."""
    rows, width = params.get("trunk", params)["tokens"].shape
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    return total - (rows - vocab_size) * width


class Block(nn.Module):
    """One post-norm block: n = norm(x + attention(x)), then norm(n + mlp(n))."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array, attend: Attend, dropouts: LayerDropouts) -> tuple[jax.Array, Any]:
        """Maps x [B, T, D] → [B, T, D].

        Args:
            x: the states.
            attend: the attention of the heads.
            dropouts: the layer's dropouts; the one for the weights is left to `attend`.

        Returns:
            The states, and what `attend` keeps.
        """
        attended, kept = self._attention(x, attend)
        x = self._norm("norm_1", x + dropouts.attended.states(attended))
        return self._norm("norm_2", x + dropouts.mlp.states(self._mlp(x))), kept

    def _attention(self, x: jax.Array, attend: Attend) -> tuple[jax.Array, Any]:
        width, heads, dtype = self.config.d_model, self.config.num_heads, x.dtype
        size, axes = width // heads, ("heads", None)
        qkv_kernel = parameter(self, "qkv_kernel", ("embed", None, *axes), normal, width, 3, heads, size)
        qkv_bias = parameter(self, "qkv_bias", (None, *axes), zeros, 3, heads, size)
        out_kernel = parameter(self, "out_kernel", (*axes, "embed"), normal, heads, size, width)
        out_bias = parameter(self, "out_bias", ("embed",), zeros, width)

        qkv = jnp.einsum("btd,dchk->btchk", x, qkv_kernel.astype(dtype)) + qkv_bias.astype(dtype)
        qkv = constrained(qkv, "batch", None, None, "heads", None)
        attended, kept = attend(*(qkv[:, :, i] for i in range(3)))
        attended = jnp.einsum("bthk,hkd->btd", attended, out_kernel.astype(dtype)) + out_bias.astype(dtype)
        return attended, kept

    def _mlp(self, x: jax.Array) -> jax.Array:
        width, units, dtype = self.config.d_model, self.config.d_ff, x.dtype
        in_kernel = parameter(self, "mlp_in_kernel", ("embed", "mlp"), normal, width, units)
        in_bias = parameter(self, "mlp_in_bias", ("mlp",), zeros, units)
        out_kernel = parameter(self, "mlp_out_kernel", ("mlp", "embed"), normal, units, width)
        out_bias = parameter(self, "mlp_out_bias", ("embed",), zeros, width)

        hidden = x @ in_kernel.astype(dtype) + in_bias.astype(dtype)
        product = activated_product(self.config.activation)
        return product(hidden, out_kernel.astype(dtype)) + out_bias.astype(dtype)

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        scale = parameter(self, f"{name}_scale", ("embed",), ones, x.shape[-1])
        bias = parameter(self, f"{name}_bias", ("embed",), zeros, x.shape[-1])
        return batch_sharded(layer_norm(x, scale, bias))


class Transformer(nn.Module):
    """Maps tokens to the final block's states; the output weights are the token table itself.

    Attributes:
        config: the sizes and rates.
        vocab_size: the number of the tokenizer's pieces; the token table has further rows for the specials.
        specials: the number of those rows that are in use.
    """

    config: ModelConfig
    vocab_size: int
    specials: int = 0

    def setup(self) -> None:
        """Declares the parameters; a call needs only those that it reads."""
        config = self.config
        self.tokens = token_table(self, self.vocab_size, self.specials, config.d_model)
        self.positions = parameter(
            self, "positions", (None, "embed"), normal, config.context_length, config.d_model
        )
        self.blocks = Block(config)

    def __call__(self, tokens: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        """Returns the final states.

        Args:
            tokens: int32 [B, T], T ≤ C, ids below the table's rows.
            noise: uint32 [B], the dropout seed of each sequence; None for no dropout.

        Returns:
            [B, T, D] in config.dtype.
        """
        config = self.config
        attention = attention_in_use(config, dropout=noise is not None)

        def layer(block: Block, x: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
            dropouts = layer_dropouts(config, noise, number)
            return block(x, partial(_attend, attention, dropouts), dropouts)

        whole: Any = layer
        if config.remat != "none":
            whole = nn.remat(layer, prevent_cse=False, policy=remat_policy(config))
        layers = nn.scan(
            whole,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=config.num_layers,
            unroll=config.unroll or (config.num_layers if config.remat == "none" else 1),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x = self.embed(tokens, slice(tokens.shape[1]), noise)
        return cast(Any, layers)(self.blocks, x, jnp.arange(config.num_layers))[0]

    def embed(
        self, tokens: jax.Array, places: slice | jax.Array, noise: jax.Array | None = None
    ) -> jax.Array:
        """Returns what the first block reads: the sum of the embeddings of tokens and positions, with dropout.

        Args:
            tokens: int32 [B, T].
            places: the positions of the tokens among the C, a slice of length T or int32 [B, T].
            noise: as in a call.

        Returns:
            [B, T, D] in config.dtype.
        """
        return embedded(lookup(self.tokens, tokens) + self.positions[places], self.config, noise)


def _attend(attention: Attention, dropouts: LayerDropouts, *qkv: jax.Array) -> tuple[jax.Array, None]:
    """Makes the `Attend` of training, which keeps nothing."""
    query, key, value = qkv
    return attention(query, key, value, dropouts.weights), None
