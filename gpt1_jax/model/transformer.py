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
from gpt1_jax.gpu import unstack
from gpt1_jax.model.attention import Sight, attention_from
from gpt1_jax.model.dropout import Dropout, LayerDropouts, layer_dropouts
from gpt1_jax.model.embedding import embedded, lookup, select, table_rows, token_table
from gpt1_jax.model.kernels.choice import Attention, attention_in_use
from gpt1_jax.model.layers import (
    activated_product,
    add_bias,
    batch_sharded,
    constrained,
    layer_norm,
    norm_parameters,
    parameter,
    product,
    remat_policy,
    starting,
    starting_positions,
    starting_residual,
    zeros,
)
from gpt1_jax.model.output import output_parameters

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
    def __call__(
        self, x: jax.Array, attend: Attend, dropouts: LayerDropouts, only: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """Maps x [B, T, D] → [B, T, D].

        Args:
            x: the states.
            attend: the attention of the heads.
            dropouts: the layer's dropouts; the one for the weights is left to `attend`.
            only: int32 [B, N], of each sequence the positions to compute, which makes the result [B, N, D], and whose
                queries `attend` gets; None means all.

        Returns:
            The states, and what `attend` keeps.
        """
        attention = partial(self._attention, attend, only)
        x, kept = self._branch("norm_1", attention, dropouts.attended, x, only)
        x, _ = self._branch("norm_2", self._mlp, dropouts.mlp, x)
        return x, kept

    def _branch(
        self,
        norm: str,
        function: Callable[..., tuple[jax.Array, Any]],
        dropout: Dropout,
        x: jax.Array,
        only: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Returns x plus a function of it, and what the function keeps."""
        pre = self.config.norm == "pre"
        added, kept = function(self._norm(norm, x) if pre else x)
        total = _at(x, only) + dropout.states(added)
        return batch_sharded(total) if pre else self._norm(norm, total), kept

    def _attention(self, attend: Attend, only: jax.Array | None, x: jax.Array) -> tuple[jax.Array, Any]:
        width, heads, dtype = self.config.d_model, self.config.num_heads, x.dtype
        size, axes = width // heads, ("heads", None)
        first, last = starting(self.config), starting_residual(self.config)
        qkv_kernel = parameter(self, "qkv_kernel", ("embed", None, *axes), first, width, 3, heads, size)
        qkv_bias = parameter(self, "qkv_bias", (None, *axes), zeros, 3, heads, size)
        out_kernel = parameter(self, "out_kernel", (*axes, "embed"), last, heads, size, width)
        out_bias = parameter(self, "out_bias", ("embed",), zeros, width)

        def project(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> list[jax.Array]:
            found = add_bias(product(x, kernel.astype(dtype)), bias)
            return unstack(constrained(found, "batch", None, None, "heads", None))

        if only is None:
            qkv = project(x, qkv_kernel, qkv_bias)
        else:
            query = project(_at(x, only), qkv_kernel[:, :1], qkv_bias[:1])
            qkv = query + project(x, qkv_kernel[:, 1:], qkv_bias[1:])
        attended, kept = attend(*qkv)
        attended = product(attended, out_kernel.astype(dtype), axes=2)
        return add_bias(attended, out_bias), kept

    def _mlp(self, x: jax.Array) -> tuple[jax.Array, None]:
        width, units, dtype = self.config.d_model, self.config.d_ff, x.dtype
        first, last = starting(self.config), starting_residual(self.config)
        in_kernel = parameter(self, "mlp_in_kernel", ("embed", "mlp"), first, width, units)
        in_bias = parameter(self, "mlp_in_bias", ("mlp",), zeros, units)
        out_kernel = parameter(self, "mlp_out_kernel", ("mlp", "embed"), last, units, width)
        out_bias = parameter(self, "mlp_out_bias", ("embed",), zeros, width)

        hidden = add_bias(product(x, in_kernel.astype(dtype)), in_bias)
        out = activated_product(self.config.activation)(hidden, out_kernel.astype(dtype))
        return add_bias(out, out_bias), None

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
            unroll=_unrolled(config),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x = self.embed(tokens, slice(tokens.shape[1]) if places is None else places, noise, types)
        x = cast(Any, layers)(self.blocks, x, jnp.arange(config.num_layers))[0]
        return self.finish(x)

    def states_at(
        self,
        tokens: jax.Array,
        only: jax.Array,
        types: jax.Array | None = None,
        groups: jax.Array | None = None,
        places: jax.Array | None = None,
    ) -> jax.Array:
        """Returns some final states of each sequence, without dropout; the last block computes no others.

        Args:
            tokens, types, groups, places: as in a call.
            only: int32 [B, N], their positions.

        Returns:
            [B, N, D] in config.dtype.
        """
        config, dropouts = self.config, layer_dropouts(self.config, None, 0)
        attention = attention_in_use(config, dropout=False, groups=groups is not None)
        sight = Sight(groups, config.causal)
        blocks = nn.unbox(self.variables["params"])["blocks"]
        first, last = (jax.tree.map(lambda x, part=part: x[part], blocks) for part in (slice(-1), -1))

        def apply(params: Any, *inputs: Any) -> jax.Array:
            return cast(Any, Block(config, parent=None).apply({"params": params}, *inputs))[0]

        attend = partial(_attend, attention, dropouts, sight)
        x = self.embed(tokens, slice(tokens.shape[1]) if places is None else places, None, types)
        x, _ = jax.lax.scan(
            lambda x, block: (apply(block, x, attend, dropouts), None), x, first, unroll=_unrolled(config)
        )
        x = apply(last, x, partial(_attend_from, only, sight), dropouts, only)
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


def _attend_from(only: jax.Array, sight: Sight, *qkv: jax.Array) -> tuple[jax.Array, None]:
    """Makes the `Attend` of some positions of each sequence, without dropout."""
    query, key, value = qkv
    return attention_from(query, key, value, only, sight), None


def _at(x: jax.Array, only: jax.Array | None) -> jax.Array:
    """Returns the states [B, N, D] at some positions [B, N] of each sequence, or all [B, T, D]."""
    return x if only is None else batch_sharded(jnp.take_along_axis(x, only[..., None], axis=1))


def _unrolled(config: ModelConfig) -> int:
    """Returns how many layers are compiled one by one; 1 makes them a loop."""
    return config.unroll or (config.num_layers if config.remat == "none" else 1)
