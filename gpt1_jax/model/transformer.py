"""The Transformer of GPT-1 (the paper's section 3.1, the authors' `model`), as pure functions through linen.

A few settings of its config make it GPT-2 (each branch normalizes what it reads) or BERT (positions attend both ways,
a sequence has token types, the embeddings are normalized).

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
from gpt1_jax.model.attention import Sight
from gpt1_jax.model.dropout import Dropout, LayerDropouts, layer_dropouts
from gpt1_jax.model.embedding import embedded, lookup, select, table_rows, token_table
from gpt1_jax.model.kernels.choice import Attention, attention_in_use
from gpt1_jax.model.layers import (
    activated_product,
    batch_sharded,
    constrained,
    layer_norm,
    norm_parameters,
    parameter,
    remat_policy,
    starting,
    starting_positions,
    starting_residual,
    zeros,
)
from gpt1_jax.model.output import output_parameters
from gpt1_jax.tpu import add_bias

# (query, key, value [B, T, H, K]) → (what they attend to [B, T, H, K], what is kept for later positions)
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


def parameter_count(params: Any, vocab_size: int) -> int:
    """Returns the number of parameters of a trunk, with or without a head, leaving out the token table's padding."""
    rows, width = params.get("trunk", params)["tokens"].shape
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    return total - (rows - vocab_size) * width


class Block(nn.Module):
    """One block: attention and then an MLP, each added to what it reads, with a norm before it or after the sum."""

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
        x, kept = self._branch("norm_1", partial(self._attention, attend), dropouts.attended, x)
        x, _ = self._branch("norm_2", self._mlp, dropouts.mlp, x)
        return x, kept

    def _branch(
        self, norm: str, function: Callable[..., tuple[jax.Array, Any]], dropout: Dropout, x: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Returns x plus a function of it, and what the function keeps."""
        pre = self.config.norm == "pre"
        added, kept = function(self._norm(norm, x) if pre else x)
        total = x + dropout.states(added)
        return batch_sharded(total) if pre else self._norm(norm, total), kept

    def _attention(self, attend: Attend, x: jax.Array) -> tuple[jax.Array, Any]:
        width, heads, dtype = self.config.d_model, self.config.num_heads, x.dtype
        size, axes = width // heads, ("heads", None)
        first, last = starting(self.config), starting_residual(self.config)
        qkv_kernel = parameter(self, "qkv_kernel", ("embed", None, *axes), first, width, 3, heads, size)
        qkv_bias = parameter(self, "qkv_bias", (None, *axes), zeros, 3, heads, size)
        out_kernel = parameter(self, "out_kernel", (*axes, "embed"), last, heads, size, width)
        out_bias = parameter(self, "out_bias", ("embed",), zeros, width)

        qkv = add_bias(jnp.einsum("btd,dchk->btchk", x, qkv_kernel.astype(dtype)), qkv_bias)
        qkv = constrained(qkv, "batch", None, None, "heads", None)
        attended, kept = attend(*(qkv[:, :, i] for i in range(3)))
        attended = jnp.einsum("bthk,hkd->btd", attended, out_kernel.astype(dtype))
        return add_bias(attended, out_bias), kept

    def _mlp(self, x: jax.Array) -> tuple[jax.Array, None]:
        width, units, dtype = self.config.d_model, self.config.d_ff, x.dtype
        first, last = starting(self.config), starting_residual(self.config)
        in_kernel = parameter(self, "mlp_in_kernel", ("embed", "mlp"), first, width, units)
        in_bias = parameter(self, "mlp_in_bias", ("mlp",), zeros, units)
        out_kernel = parameter(self, "mlp_out_kernel", ("mlp", "embed"), last, units, width)
        out_bias = parameter(self, "mlp_out_bias", ("embed",), zeros, width)

        hidden = add_bias(x @ in_kernel.astype(dtype), in_bias)
        product = activated_product(self.config.activation)
        return add_bias(product(hidden, out_kernel.astype(dtype)), out_bias), None

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        norm = layer_norm(self.config.norm_epsilon)
        return batch_sharded(norm(x, *norm_parameters(self, name, x.shape[-1])))


class Transformer(nn.Module):
    """Maps tokens to the final states, which the token table itself turns into predictions (see `output`).

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
        config, width = self.config, self.config.d_model
        start = starting(config)
        self.tokens = token_table(self, self.vocab_size, self.specials, width, start)
        places = starting_positions(config)
        self.positions = parameter(self, "positions", (None, "embed"), places, config.context_length, width)
        if config.token_types:
            self.token_types = parameter(
                self, "token_types", (None, "embed"), start, config.token_types, width
            )
        if config.embedding_norm:
            self.embedding_norm = norm_parameters(self, "embedding_norm", width)
        if config.norm == "pre":
            self.final_norm = norm_parameters(self, "final_norm", width)
        if not config.causal:
            output_parameters(self, table_rows(self.vocab_size), width, start)
        self.blocks = Block(config)

    def __call__(
        self,
        tokens: jax.Array,
        noise: jax.Array | None = None,
        types: jax.Array | None = None,
        groups: jax.Array | None = None,
        places: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the final states.

        Args:
            tokens: int32 [B, T], T ≤ C, ids below the table's rows.
            noise: uint32 [B], the dropout seed of each sequence; None for no dropout.
            types: int32 [B, T], the token type of each position; None means 0. Without config.token_types, they have
                no meaning.
            groups: int32 [B, T], which positions attend to each other; None is one group (see `attention.Sight`).
            places: int32 [B, T], the positions of the tokens among the C; None is 0 to T − 1.

        Returns:
            [B, T, D] in config.dtype.
        """
        config = self.config
        attention = attention_in_use(config, dropout=noise is not None, groups=groups is not None)
        sight = Sight(groups, config.causal)

        def layer(block: Block, x: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
            dropouts = layer_dropouts(config, noise, number)
            return block(x, partial(_attend, attention, dropouts, sight), dropouts)

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
        x = self.embed(tokens, slice(tokens.shape[1]) if places is None else places, noise, types)
        x = cast(Any, layers)(self.blocks, x, jnp.arange(config.num_layers))[0]
        return self.finish(x)

    def embed(
        self,
        tokens: jax.Array,
        places: slice | jax.Array,
        noise: jax.Array | None = None,
        types: jax.Array | None = None,
    ) -> jax.Array:
        """Returns what the first block reads: the sum of the embeddings of tokens, positions and types, with dropout.

        Args:
            tokens: int32 [B, T].
            places: the positions of the tokens among the C, a slice of length T or int32 [B, T].
            noise, types: as in a call.

        Returns:
            [B, T, D] in config.dtype.
        """
        config = self.config
        x = lookup(self.tokens, tokens) + self.positions[places]
        if config.token_types:
            x = x + (self.token_types[0] if types is None else select(self.token_types, types))
        if config.embedding_norm:
            x = layer_norm(config.norm_epsilon)(x, *self.embedding_norm)
        return embedded(x, config, noise)

    def finish(self, x: jax.Array) -> jax.Array:
        """Returns the final states of what the last block gives [..., D], which pre-norm leaves without a norm."""
        return layer_norm(self.config.norm_epsilon)(x, *self.final_norm) if self.config.norm == "pre" else x


def _attend(
    attention: Attention, dropouts: LayerDropouts, sight: Sight, *qkv: jax.Array
) -> tuple[jax.Array, None]:
    """Makes the `Attend` of training, which keeps nothing."""
    query, key, value = qkv
    return attention(query, key, value, dropouts.weights, sight), None
