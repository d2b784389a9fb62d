"""A bias whose gradient is summed by matrix units: for TPUs, in bfloat16.

The gradient of a bias is a sum over all positions. A TPU's vector units take longer for it than its matrix units, for
which it is a product with ones: exact, since they sum bfloat16 in float32.

Letters: B sequences, T positions.
"""

import jax
import jax.numpy as jnp

from gpt1_jax.devices.mesh import platform

# Fewer rows would make XLA use the vector units after all.
ROWS = 8


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns x [B, T, …] + bias […], the bias cast to the dtype of x."""
    if platform() == "tpu" and x.dtype == jnp.bfloat16:
        return _add(x, bias)
    return x + bias.astype(x.dtype)


@jax.custom_vjp
def _add(x: jax.Array, bias: jax.Array) -> jax.Array:
    return x + bias.astype(x.dtype)


def _forward(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return _add(x, bias), None


def _backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    ones = jnp.ones((ROWS, *gradient.shape[:2]), gradient.dtype)
    sums = jnp.einsum("nbt,bt...->n...", ones, gradient, preferred_element_type=jnp.float32)
    return gradient, sums[0]


_add.defvjp(_forward, _backward)
