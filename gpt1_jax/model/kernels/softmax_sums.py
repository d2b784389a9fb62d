"""The sums of a softmax from the matrix product that its gradient needs anyway: for TPUs, in bfloat16.

A TPU's vector units need more cycles for the exponentials of a chunk of logits than its matrix units for the product
with them. The gradient of the states is that product, divided by the sums. If the table has columns of ones, the same
product sums the exponentials, and no pass over the logits is left that does nothing else. The sums are then those of
exponentials rounded to bfloat16, as the gradient takes them.

Letters: N rows of states, D width, V rows of the table.
"""

import jax
import jax.numpy as jnp

from gpt1_jax.devices.mesh import platform

# A matrix unit computes so many columns at once, so that one costs as much.
LANES = 128


def apply_to(states: jax.Array) -> bool:
    """Returns whether the sums for such states come from the product."""
    return platform() == "tpu" and states.dtype == jnp.bfloat16


def with_ones(table: jax.Array) -> jax.Array:
    """Returns the table [V, D] with columns of ones, [V, D + LANES]."""
    return jnp.pad(table, ((0, 0), (0, LANES)), constant_values=1)


def sums(exponentials: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns Σ e · row and Σ e over the rows of a table, which comes from `with_ones`.

    Args:
        exponentials: float32 [N, V].
        table: [V, D + LANES].

    Returns:
        float32 [N, D] and [N].
    """
    found = jnp.einsum(
        "nv,vd->nd", exponentials.astype(table.dtype), table, preferred_element_type=jnp.float32
    )
    return found[:, :-LANES], found[:, -1]
