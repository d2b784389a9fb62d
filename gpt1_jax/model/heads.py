"""What fine-tuning adds to a trunk: one linear layer on the state at the extract token (the paper's section 3.2).

Letters: B examples, S sequences per example, T positions, D width, N outputs.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.model.dropout import Dropout
from gpt1_jax.model.layers import normal, parameter, zeros
from gpt1_jax.model.trunk import Trunk

# A dropout site that no layer has.
CLASSIFIER_SITE = 2**31 - 1
Pooling = Literal["one", "sum", "each"]


class Head(nn.Module):
    """Dropout, then a linear layer.

    Attributes:
        pooling: how an example's S states are used. "one": there is only one; "sum": they are added
            (similarity); "each": the layer scores each (multiple choice).
        outputs: N, which is 1 for "each".
        dropout_rate: the rate of dropout on the layer's input.
    """

    pooling: Pooling
    outputs: int
    dropout_rate: float

    @nn.compact
    def __call__(self, states: jax.Array, noise: jax.Array | None) -> jax.Array:
        """Returns the logits.

        Args:
            states: [B, S, D], each sequence's final state at its extract token.
            noise: uint32 [B], or None for no dropout. All states of an example get the same mask, as in the
                authors' code for multiple choice.

        Returns:
            float32 [B, N], or [B, S] for "each".
        """
        width = states.shape[-1]
        kernel = parameter(self, "kernel", ("embed", None), normal, width, self.outputs)
        bias = parameter(self, "bias", (None,), zeros, self.outputs)
        states = states.astype(jnp.float32)
        if self.pooling == "sum":
            states = states.sum(1, keepdims=True)
        index = jnp.arange(width, dtype=jnp.uint32)[None]
        states = Dropout(noise, CLASSIFIER_SITE, self.dropout_rate, 1).elements(states, index)
        logits = states @ kernel + bias
        return logits[:, :, 0] if self.pooling == "each" else logits[:, 0]


class Classifier(nn.Module):
    """A trunk with a head on it.

    Attributes:
        trunk, head: the two parts; the parameters are {"trunk": …, "head": …}.
        extract: the token whose state the head reads.
    """

    trunk: Trunk
    head: Head
    extract: int

    def __call__(self, tokens: jax.Array, noise: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Returns the task's logits, and the states for the auxiliary language model.

        Args:
            tokens: int32 [B, S, T], each sequence with one extract token.
            noise: uint32 [B, S], the dropout seed of each sequence; None for no dropout.

        Returns:
            The head's logits, and hidden [B · S, T, D].
        """
        flat = tokens.reshape(-1, tokens.shape[-1])
        hidden = self.trunk(flat, None if noise is None else noise.reshape(-1))
        ends = jnp.argmax(flat == self.extract, axis=-1)
        states = jnp.take_along_axis(hidden, ends[:, None, None], axis=1)
        states = states.reshape(len(tokens), -1, hidden.shape[-1])
        return self.head(states, None if noise is None else noise[:, 0]), hidden
