"""Telling XLA for CPUs in which order to compute, where that decides what it keeps and copies.

Compilers for other devices see to that themselves: a v5e's program would be 7 % slower by its compiler's estimate.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp


def on_cpu() -> bool:
    """Whether what is being traced is for CPUs: by the mesh in use, without one by the default device."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (jax.default_backend() if device is None else device.platform) == "cpu"


def after(x: jax.Array, other: jax.Array) -> jax.Array:
    """x, which is not computed on CPUs before `other`, an array that broadcasts to its shape; NaN where that is NaN.

    jax.lax.optimization_barrier says the same, but XLA for CPUs drops it early.
    """
    return jnp.where(jnp.isnan(other), other.astype(x.dtype), x) if on_cpu() else x


def recomputed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The function, of which the backward pass on CPUs keeps the arguments alone and computes the rest again.

    As jax.checkpoint, after which XLA for CPUs computes again at once, not when the gradient is there, unless layers
    are a loop. The result has the shape of the first argument, up to the last dimension.
    """

    @jax.custom_vjp
    def again(*arguments: Any) -> jax.Array:
        return function(*arguments)

    def forward(*arguments: Any) -> tuple[jax.Array, Any]:
        return function(*arguments), arguments

    def backward(arguments: Any, gradient: jax.Array) -> Any:
        first, *others = arguments
        if jax.sharding.get_abstract_mesh().size < 2:  # many would send each other that number
            number = gradient.ravel()[0]
            others = jax.tree.map(
                lambda x: after(x, number), others
            )  # weights are cut out of their stack again
        return jax.vjp(function, after(first, gradient[..., :1]), *others)[1](gradient)

    again.defvjp(forward, backward)
    return wraps(function)(lambda *arguments: (again if on_cpu() else function)(*arguments))
