"""Telling XLA in which order to compute, where that decides what it has to keep."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp


def after(x: jax.Array, other: jax.Array) -> jax.Array:
    """x, which is not computed before `other`, an array that broadcasts to its shape; NaN where that is NaN.

    jax.lax.optimization_barrier says the same, but XLA for CPUs takes no notice of it.
    """
    return jnp.where(jnp.isnan(other), other.astype(x.dtype), x)


def recomputed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The function, of which the backward pass keeps the arguments alone and computes the rest again.

    As jax.checkpoint, which has no effect on CPUs outside of loops: XLA sees the same computed twice and keeps it.
    The result has the shape of the first argument, up to the last dimension.
    """

    @jax.custom_vjp
    def call(*arguments: Any) -> jax.Array:
        return function(*arguments)

    def forward(*arguments: Any) -> tuple[jax.Array, Any]:
        return function(*arguments), arguments

    def backward(arguments: Any, gradient: jax.Array) -> Any:
        first, *others = arguments
        return jax.vjp(function, after(first, gradient[..., :1]), *others)[1](gradient)

    call.defvjp(forward, backward)
    return wraps(function)(call)
