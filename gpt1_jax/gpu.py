"""What XLA for GPUs needs to be told; the model, its loss and its step can be read without it.

What counts on a GPU is how often an array goes through the memory. By itself, XLA transposes the states for products of
more than two dimensions, leaves biases and GELU out of the products before them, and stores what it could compute
again. On other devices the functions change nothing.

Letters: B sequences, T positions, D width, N rows of logits, V of the token table.
"""

import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from gpt1_jax.devices.mesh import platform

# A loss holds so many rows of logits at once. Each time, the sum of the table's gradient is read and written.
LOGITS_AT_ONCE = 8192


def on_gpu() -> bool:
    """Returns whether the traced program is for GPUs."""
    return platform() == "gpu"


# ── Products ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def in_rows(x: jax.Array) -> jax.Array:
    """Returns x [..., D], whose D numbers GPUs then keep side by side.

    By itself, XLA would lay out the states with the sequences innermost, and transpose them before each product. On
    several GPUs, jax before 0.11 would gather the whole batch for it, and nothing changes.
    """
    if not on_gpu() or (jax.sharding.get_abstract_mesh().size > 1 and jax.__version_info__ < (0, 11)):
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def product(x: jax.Array, kernel: jax.Array, axes: int) -> jax.Array:
    """Returns jnp.tensordot(x, kernel, axes), which GPUs compute as a product of two matrices.

    Where heads are split over devices, a matrix could not be split alike, and nothing changes.
    """
    if not _plain_matrices():
        return jnp.tensordot(x, kernel, axes)
    summed, kept = kernel.shape[:axes], kernel.shape[axes:]
    rows = x.reshape(-1, math.prod(summed))
    return (rows @ kernel.reshape(rows.shape[1], -1)).reshape(*x.shape[: x.ndim - axes], *kept)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns x [B, T, ...] + bias [...], cast to the dtype of x, which GPUs do in the product that makes x."""
    bias = bias.astype(x.dtype)
    if not _plain_matrices():
        return x + bias
    return (x.reshape(-1, bias.size) + bias.ravel()).reshape(x.shape)


def unstack(x: jax.Array) -> list[jax.Array]:
    """Returns the parts of x [B, T, parts, ...]; GPUs stack their gradients instead of adding padded ones."""
    return list(_unstack(x) if on_gpu() else _parts(x))


def _parts(x: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(x[:, :, i] for i in range(x.shape[2]))


_unstack = jax.custom_vjp(_parts)
_unstack.defvjp(lambda x: (_parts(x), None), lambda _, gradients: (jnp.stack(gradients, 2),))


def _plain_matrices() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return on_gpu() and mesh.shape.get("tensor", 1) == 1


# ── What lies between products ───────────────────────────────────────────────────────────────────────────────────────


def computed_again(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns the function; for its backward pass, GPUs keep only its arguments."""
    again = jax.checkpoint(function)
    return wraps(function)(lambda *arguments: (again if on_gpu() else function)(*arguments))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Normalizes x [..., D] over D with the biased variance, in float32, as `layers.layer_norm` does elsewhere.

    In the backward pass, the sums over rows read their inputs a second time. By itself, XLA would store the normalized
    states and their products with the gradient, in float32.
    """
    return _norm_forward(x, scale, bias, epsilon)[0]


def _norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, Any]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    wide = wide - mean
    inverse = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    return (wide * inverse * scale + bias).astype(x.dtype), (x, scale, mean, inverse)


def _norm_backward(_: float, kept: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    def read(x: jax.Array, mean: jax.Array, inverse: jax.Array, gradient: jax.Array) -> Any:
        return (x.astype(jnp.float32) - mean) * inverse, gradient.astype(jnp.float32)

    x, scale, mean, inverse = kept
    normal, taught = read(x, mean, inverse, gradient)
    taught = taught * scale
    mean_taught, slope = taught.mean(-1, keepdims=True), (taught * normal).mean(-1, keepdims=True)
    d_x = (inverse * (taught - mean_taught - normal * slope)).astype(x.dtype)
    normal, taught = read(*jax.lax.optimization_barrier((x, mean, inverse, gradient)))
    rows = tuple(range(x.ndim - 1))
    return d_x, (taught * normal).sum(rows), taught.sum(rows)


layer_norm.defvjp(_norm_forward, _norm_backward)


# ── The loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def softmax_sums(logits: jax.Array, hit: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns what a cross-entropy needs of logits [N, V], by one pass over them.

    Args:
        logits: float32 [N, V].
        hit: bool [N, V], the one logit of each row that is the target's, or none.

    Returns:
        float32 [N]: the greatest logit, the sum of the exponentials of the logits less it, and the target's logit or 0.
    """

    def join(a: Any, b: Any) -> Any:
        top = jnp.maximum(a[0], b[0])
        return top, a[1] * jnp.exp(a[0] - top) + b[1] * jnp.exp(b[0] - top), a[2] + b[2]

    lowest, zero = jnp.finfo(jnp.float32).min, jnp.float32(0)
    parts = logits, jnp.ones_like(logits), jnp.where(hit, logits, 0)
    return jax.lax.reduce(parts, (lowest, zero, zero), join, (1,))
