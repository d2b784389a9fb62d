"""What XLA for TPUs needs to be told, in bfloat16; the model, its loss and its step can be read without it.

By its own estimate, XLA for TPUs spends more time on sums than it has to: over the positions of a batch, over the
logits of a token, twice over the states that a norm reads. On other devices, and in float32, the functions change
nothing, and their programs are the same byte for byte.

Letters: B sequences, T positions, N states, D width, V rows of the token table.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpt1_jax.devices.mesh import platform

# A matrix unit has so many columns, so one more costs as much as all of them.
_LANES = 128
# With fewer rows, XLA would take vector units for a product after all.
_ROWS = 8


def on_tpu(dtype: Any) -> bool:
    """Returns whether the traced program is for TPUs and computes in bfloat16."""
    return platform() == "tpu" and dtype == jnp.bfloat16


# ── Norms ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def centered(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns x less its mean over D, and its biased variance, both in float32.

    On TPUs, both moments come from one pass over x, which XLA fuses with the product that makes it. The variance is
    then the mean square less the square of the mean, as in flax.linen.LayerNorm. In float32, its error is a thousandth
    where the mean is a hundred times the deviation, which bfloat16 itself hardly tells apart.

    Args:
        x: [..., D].

    Returns:
        [..., D] and [..., 1].
    """
    dtype, x = x.dtype, x.astype(jnp.float32)
    mean = x.mean(-1, keepdims=True)
    if on_tpu(dtype):
        return x - mean, jnp.maximum(jnp.square(x).mean(-1, keepdims=True) - jnp.square(mean), 0)
    x = x - mean
    return x, jnp.square(x).mean(-1, keepdims=True)


# ── Biases ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns x [B, T, ...] + bias [...], cast to the dtype of x.

    On TPUs, the gradient of the bias is a product with ones, which is exact: matrix units sum bfloat16 in float32.
    """
    return _add_bias(x, bias) if on_tpu(x.dtype) else x + bias.astype(x.dtype)


@jax.custom_vjp
def _add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    return x + bias.astype(x.dtype)


def _add_bias_forward(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return _add_bias(x, bias), None


def _add_bias_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    ones = jnp.ones((_ROWS, *gradient.shape[:2]), gradient.dtype)
    sums = jnp.einsum("nbt,bt...->n...", ones, gradient, preferred_element_type=jnp.float32)
    return gradient, sums[0]


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


# ── The loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def with_ones(table: jax.Array) -> jax.Array:
    """Returns the token table [V, D] with columns of ones, [V, D + lanes], for `softmax_sums`."""
    return jnp.pad(table, ((0, 0), (0, _LANES)), constant_values=1)


def softmax_sums(
    states: jax.Array, exponentials: jax.Array, table: jax.Array, target_rows: jax.Array
) -> tuple[jax.Array, jax.Array, Callable[[jax.Array, jax.Array], jax.Array]]:
    """Returns the sums of the exponentials of logits, the targets' logits, and how the states' gradient comes of them.

    The gradient is a product of the exponentials with the table, divided by the sums. With columns of ones, the same
    product sums, and no pass over the logits is left that does nothing else. The sums are those of exponentials rounded
    to bfloat16, which is what the product multiplies.

    Args:
        states: [N, D].
        exponentials: float32 [N, V].
        table: from `with_ones`.
        target_rows: [N, D], the rows of the targets; zeros where another device has them.

    Returns:
        The sums and the logits, float32 [N], and a function of the weights and the sums over all devices, [N] each; it
        returns the gradient [N, D] as far as it comes from these rows of the table.
    """
    both = jnp.einsum(
        "nv,vd->nd", exponentials.astype(table.dtype), table, preferred_element_type=jnp.float32
    )
    pull, target_rows = both[:, :-_LANES], target_rows.astype(jnp.float32)

    def gradient(weights: jax.Array, totals: jax.Array) -> jax.Array:
        found = pull * (weights / totals)[:, None] - weights[:, None] * target_rows
        return found.astype(states.dtype)

    return both[:, -1], (states.astype(jnp.float32) * target_rows).sum(-1), gradient
