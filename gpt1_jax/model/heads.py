"""What fine-tuning adds to a trunk: one linear layer on its states (the paper's section 3.2).

Letters: B examples, S sequences per example, T positions, D width, N outputs of the layer; P places that an example has
labels at, C outputs at each.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.model.dropout import Dropout
from gpt1_jax.model.layers import normal, parameter, zeros
from gpt1_jax.model.output import pooled
from gpt1_jax.model.trunk import Trunk

# A dropout site that no layer has.
CLASSIFIER_SITE = 2**31 - 1
# The logit of a position behind the end of its sequence, which cannot be the end of a span.
OUTSIDE = -1e30
Pooling = Literal["one", "sum", "each", "tokens", "ends"]


class Head(nn.Module):
    """Dropout, then a linear layer.

    Attributes:
        pooling: how states become logits [B, P, C]. "one", "sum" and "each" read one state of each sequence: "one", of
            the only one; "sum" adds those of all (similarity), and P = 1, C = N; "each" scores each (multiple choice),
            and P = 1, C = S. The others read all states of the only sequence: "tokens" gives each its classes
            (tagging), and P = T, C = N; "ends" scores each as the first and as the last of a span, and P = 2, C = T.
        outputs: N, which is 1 for "each" and 2 for "ends".
        dropout_rate: the rate of dropout on the layer's input.
    """

    pooling: Pooling
    outputs: int
    dropout_rate: float

    @nn.compact
    def __call__(self, states: jax.Array, noise: jax.Array | None) -> jax.Array:
        """Returns the logits.

        Args:
            states: [B, S, D], each sequence's state that is read; for "tokens" and "ends" [B, T, D].
            noise: uint32 [B], or None for no dropout. The states of an example's several sequences get the same mask,
                as in the authors' code for multiple choice; the states of one sequence get masks of their own.

        Returns:
            float32 [B, P, C].
        """
        width = states.shape[-1]
        kernel = parameter(self, "kernel", ("embed", None), normal, width, self.outputs)
        bias = parameter(self, "bias", (None,), zeros, self.outputs)
        states = states.astype(jnp.float32)
        if self.pooling == "sum":
            states = states.sum(1, keepdims=True)
        dropout = Dropout(noise, CLASSIFIER_SITE, self.dropout_rate, 1)
        if self.pooling in ("tokens", "ends"):
            states = dropout.states(states)
        else:
            states = dropout.elements(states, jnp.arange(width, dtype=jnp.uint32)[None])
        logits = states @ kernel + bias
        return logits.swapaxes(1, 2) if self.pooling in ("each", "ends") else logits


class Classifier(nn.Module):
    """A trunk with a head on it.

    Attributes:
        trunk, head: the two parts; the parameters are {"trunk": …, "head": …}. Without a head, for tasks that are text,
            the logits are empty.
        extract: the token that ends each sequence of a causal trunk, and whose state the head reads unless it reads
            all. A trunk that reads both ways has its class at the first position, behind the pooler.
    """

    trunk: Trunk
    head: Head | None
    extract: int

    def __call__(
        self,
        tokens: jax.Array,
        noise: jax.Array | None = None,
        types: jax.Array | None = None,
        groups: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the task's logits, and the states for the auxiliary language model.

        Args:
            tokens: int32 [B, S, T], each sequence of a causal trunk with one extract token.
            noise: uint32 [B, S], the dropout seed of each sequence; None for no dropout.
            types, groups: int32 [B, S, T] or None, as the trunk takes them for [B · S, T].

        Returns:
            The head's logits, float32 [B, P, C], and hidden [B · S, T, D].
        """
        flat, types, groups = _flat(tokens), _flat(types), _flat(groups)
        hidden = self.trunk(flat, None if noise is None else noise.reshape(-1), types, groups)
        if self.head is None:
            return jnp.zeros((tokens.shape[0], 0, 0)), hidden
        states = hidden
        if self.reads_one:
            states = jnp.take_along_axis(hidden, self._ends(flat)[:, None, None], axis=1)[:, 0]
            states = self._pooled(states).reshape(*tokens.shape[:2], -1)
        logits = self.head(states, None if noise is None else noise[:, 0])
        if self.head.pooling == "ends":
            ends = jnp.argmax(flat == self.extract, axis=-1)
            inside = jnp.arange(flat.shape[-1]) <= ends[:, None] if groups is None else groups >= 0
            logits = jnp.where(inside[:, None], logits, OUTSIDE)
        return logits, hidden

    def answer(
        self, tokens: jax.Array, types: jax.Array | None = None, groups: jax.Array | None = None
    ) -> jax.Array:
        """Returns the logits alone, without dropout; states that the head does not read are not computed.

        Args:
            tokens, types, groups: as in a call.
        """
        if not self.reads_one:
            return self(tokens, None, types, groups)[0]
        flat = _flat(tokens)
        states = self.read(flat, self._ends(flat)[:, None], _flat(types), _flat(groups))
        return self.judge(states.reshape(*tokens.shape[:2], -1))

    def read(
        self,
        tokens: jax.Array,
        only: jax.Array,
        types: jax.Array | None = None,
        groups: jax.Array | None = None,
        places: jax.Array | None = None,
    ) -> jax.Array:
        """Returns what the head reads at some positions of rows that may have several sequences, without dropout.

        Args:
            tokens: int32 [B, T].
            only: int32 [B, N], the positions.
            types, groups, places: int32 [B, T] or None, as in a call of the trunk.

        Returns:
            [B, N, D].
        """
        return self._pooled(self.trunk.states_at(tokens, only, types, groups, places))

    def judge(self, states: jax.Array) -> jax.Array:
        """Returns the logits [B, P, C] of what `read` returned for each sequence [B, S, D]."""
        assert self.head is not None
        return self.head(states, None)

    @property
    def reads_one(self) -> bool:
        """Whether the head reads one state of each sequence."""
        return self.head is not None and self.head.pooling not in ("tokens", "ends")

    def _ends(self, flat: jax.Array) -> jax.Array:
        """Returns the position that the head reads in each sequence [B · S, T], int32 [B · S]."""
        ends = jnp.argmax(flat == self.extract, axis=-1)
        return ends if self.trunk.config.causal else jnp.zeros_like(ends)

    def _pooled(self, states: jax.Array) -> jax.Array:
        """Returns what the head reads of the states [..., D] at these positions, of the same shape."""
        return (
            states if self.trunk.config.causal else pooled(nn.unbox(self.trunk.variables["params"]), states)
        )


def _flat(x: Any) -> Any:
    """Returns [B · S, T] of [B, S, T]; nothing of None."""
    return None if x is None else x.reshape(-1, x.shape[-1])
