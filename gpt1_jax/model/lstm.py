"""The LSTM of the paper's ablation (section 5): one layer, which takes the Transformer's place and is called alike.

The paper says only that it has 2048 units. Here it reads and predicts through the Transformer's token table. The units
are projected to the table's width, and dropout is applied to embeddings and projection.

Letters: B sequences, T positions, D width, U units. The gates are in the order of `recurrence`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.config import ModelConfig
from gpt1_jax.errors import UserError
from gpt1_jax.model.dropout import layer_dropouts
from gpt1_jax.model.embedding import embedded, lookup, token_table
from gpt1_jax.model.layers import INIT_STDDEV, batch_sharded, constrained, parameter, starting, zeros
from gpt1_jax.model.recurrence import FORGET, recurrence

normal = nn.initializers.normal


def gate_bias(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Returns 1 for the forget gate and 0 elsewhere; an open gate lets gradients reach back beyond a few positions."""
    return jnp.zeros(shape, dtype).at[..., FORGET, :].set(1)


class Layer(nn.Module):
    """The one layer, with its parameters stacked [1, ...] like the Transformer's blocks."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array, noise: jax.Array | None) -> jax.Array:
        """Maps x [B, T, D] → [B, T, D]; noise is uint32 [B], or None for no dropout."""
        config, dtype, width = self.config, x.dtype, x.shape[-1]
        units, gates = config.d_ff, ("layers", "embed", None, "mlp")

        # A matmul of N inputs starts with deviation 1/√N, so its outputs are as large as its inputs; there is no layer
        # norm to correct smaller ones. From tokens to gates it also raises the embeddings to 1, where gates bend. At
        # 0.02, the loss would stay that of single words for hundreds of steps. At 2048 units, 1/√U is about 0.02.
        to_gates, from_units = normal(width**-0.5 / INIT_STDDEV), normal(units**-0.5)
        input_kernel = parameter(self, "input_kernel", gates, to_gates, 1, width, 4, units)
        recurrent_kernel = parameter(self, "recurrent_kernel", gates, from_units, 1, units, 4, units)
        bias = parameter(self, "bias", ("layers", None, "mlp"), gate_bias, 1, 4, units)
        out_kernel = parameter(self, "out_kernel", ("layers", "mlp", "embed"), from_units, 1, units, width)
        out_bias = parameter(self, "out_bias", ("layers", "embed"), zeros, 1, width)

        inputs = jnp.einsum("btd,dcu->tbcu", x, input_kernel[0].astype(dtype)) + bias[0].astype(dtype)
        inputs = constrained(inputs, None, "batch", None, "mlp")
        states = recurrence(inputs, recurrent_kernel[0].astype(dtype), config)
        output = jnp.einsum("tbu,ud->btd", states, out_kernel[0].astype(dtype)) + out_bias[0].astype(dtype)
        return batch_sharded(layer_dropouts(config, noise, 0).mlp.states(output))


class LSTM(nn.Module):
    """Maps tokens to the states that predict the next tokens; the output weights are the token table itself.

    Attributes:
        config, vocab_size, specials: as in `Transformer`.
    """

    config: ModelConfig
    vocab_size: int
    specials: int = 0

    @nn.compact
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
            tokens: int32 [B, T], ids below the table's rows.
            noise: uint32 [B], the dropout seed of each sequence; None for no dropout.
            types: without meaning here, as in a Transformer without token types.
            groups: must be None.
            places: without meaning, as there are no positions.

        Raises:
            UserError: there are groups.

        Returns:
            [B, T, D] in config.dtype.
        """
        if groups is not None:
            raise UserError(
                "model.kind=lstm reads a sequence from end to end and cannot keep parts of it apart; set transformer."
            )
        table = token_table(self, self.vocab_size, self.specials, self.config.d_model, starting(self.config))
        x = embedded(lookup(table, tokens), self.config, noise)
        return Layer(self.config, name="blocks")(x, noise)

    def states_at(
        self,
        tokens: jax.Array,
        only: jax.Array,
        types: jax.Array | None = None,
        groups: jax.Array | None = None,
        places: jax.Array | None = None,
    ) -> jax.Array:
        """Returns some final states of each sequence [B, N, D], as `Transformer.states_at` does."""
        return jnp.take_along_axis(self(tokens, None, types, groups, places), only[..., None], axis=1)
