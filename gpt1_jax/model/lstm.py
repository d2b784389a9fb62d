"""The LSTM of the paper's ablation (section 5): one layer, in the Transformer's place and behind its call.

The paper gives its 2048 units and no more. Here it reads and predicts through the Transformer's token table, for
which the units are projected to the table's width, with dropout on embeddings and projection.

Letters: B sequences, T positions, D width, U units. The gates are in the order of `recurrence`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.config import ModelConfig
from gpt1_jax.model.dropout import layer_dropouts
from gpt1_jax.model.embedding import embedded, lookup, token_table
from gpt1_jax.model.layers import INIT_STDDEV, batch_sharded, constrained, parameter, zeros
from gpt1_jax.model.recurrence import FORGET, recurrence

normal = nn.initializers.normal


def gate_bias(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """1 for the forget gate, else 0: open from the start, so that gradients reach back beyond a few positions."""
    return jnp.zeros(shape, dtype).at[..., FORGET, :].set(1)


class Layer(nn.Module):
    """The one layer, with its parameters stacked [1, ...] like the Transformer's blocks."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array, noise: jax.Array | None) -> jax.Array:
        """x [B, T, D] → [B, T, D]; noise uint32 [B] or None for no dropout."""
        config, dtype, width = self.config, x.dtype, x.shape[-1]
        units, gates = config.d_ff, ("layers", "embed", None, "mlp")

        # A matmul of N inputs starts with deviation 1/√N, which is as large as its inputs are: no layer norm makes
        # good for less. From tokens to gates it also lifts the embeddings to 1, where gates bend; at 0.02 the loss
        # stays that of single words for hundreds of steps. At 2048 units 1/√U is the Transformer's 0.02.
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
    """Tokens to the states that predict the next; the output weights are the token table itself.

    Attributes:
        config, vocab_size, specials: as in `Transformer`.
    """

    config: ModelConfig
    vocab_size: int
    specials: int = 0

    @nn.compact
    def __call__(self, tokens: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        """The final states.

        Args:
            tokens: int32 [B, T], ids below the table's rows.
            noise: uint32 [B], the dropout seed of each sequence; None for no dropout.

        Returns:
            [B, T, D] in config.dtype.
        """
        table = token_table(self, self.vocab_size, self.specials, self.config.d_model)
        x = embedded(lookup(table, tokens), self.config, noise)
        return Layer(self.config, name="blocks")(x, noise)
