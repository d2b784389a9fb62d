"""What XLA for TPUs needs to be told, in bfloat16; the model, its loss and its step can be read without it.

By its own estimate, XLA for TPUs spends more time on sums than it has to: over the positions of a batch, over the
logits of a token, twice over the states that a norm reads. On other devices, and in float32, the functions change
nothing, and their programs are the same byte for byte.

Letters: B sequences, T positions, D width, N rows of logits, V of the token table.
"""

from typing import Any

import jax
import jax.numpy as jnp

from gpt1_jax.devices.mesh import device_kind, platform

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


def logits_at_once(rows: int) -> int:
    """Returns of how many rows at once the loss holds logits: twice as many on a v5p, which jax calls "TPU v5".

    Each time, the sum of the table's gradient is read and written. A v5e keeps the logits of few rows, but not of more,
    in its own memory, and there that counts for more.
    """
    return 2 * rows if device_kind() in ("TPU v5", "TPU v5p") else rows


def sums_of_rounded(x: jax.Array) -> jax.Array:
    """Returns the sums of float32 [N, V] over V, of numbers rounded to bfloat16, by a product with ones.

    A rounding is relative, and as often up as down, so sums of exponentials stay right to about four digits.
    """
    ones = jnp.ones((x.shape[1], _LANES), jnp.bfloat16)
    return jnp.einsum("nv,vl->nl", x.astype(jnp.bfloat16), ones, preferred_element_type=jnp.float32)[:, 0]
