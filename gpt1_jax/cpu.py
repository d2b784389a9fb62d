"""What XLA for CPUs and glibc are told, so that the model, its loss and its step are read without it.

XLA for CPUs keeps and copies arrays that other compilers do not; an order of computation that it cannot undo spares
them. On other devices the functions change nothing: a v5e's program would be 7 % slower by its compiler's estimate.
"""

import ctypes
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp


def on_cpu() -> bool:
    """Whether the program being traced is for CPUs: by the mesh in use, without one by the default device."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (jax.default_backend() if device is None else device.platform) == "cpu"


def after(x: jax.Array, other: jax.Array) -> jax.Array:
    """x, which CPUs compute after `other`, an array that broadcasts to x's shape; NaN where `other` is NaN.

    jax.lax.optimization_barrier asks for the same, but XLA for CPUs drops it early. No compiler can decide the
    comparison with NaN.
    """
    return jnp.where(jnp.isnan(other), other.astype(x.dtype), x) if on_cpu() else x


def recomputed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The function with a backward pass that, on CPUs, keeps only the arguments and computes the rest again.

    jax.checkpoint asks for the same, but XLA for CPUs computes again at once instead of when the gradient arrives,
    unless layers are a loop. The result has the shape of the first argument, up to the last dimension. Arguments are
    trees of arrays.
    """

    @jax.custom_vjp
    def again(*arguments: Any) -> jax.Array:
        return function(*arguments)

    def forward(*arguments: Any) -> tuple[jax.Array, Any]:
        return function(*arguments), arguments

    def backward(arguments: Any, gradient: jax.Array) -> Any:
        first, *others = arguments
        # On several devices the number would have to be sent to all of them.
        if jax.sharding.get_abstract_mesh().size < 2:
            number = gradient.ravel()[0]
            # Layers' weights are then cut out of their stack a second time instead of being kept.
            others = jax.tree.map(lambda x: after(x, number), others)
        return jax.vjp(function, after(first, gradient[..., :1]), *others)[1](gradient)

    again.defvjp(forward, backward)
    return wraps(function)(lambda *arguments: (again if on_cpu() else function)(*arguments))


@jax.custom_vjp
def take_rows(table: jax.Array, rows: jax.Array) -> jax.Array:
    """table[rows], with zeros where there is no such row.

    On CPUs the zeros that the table's gradient starts from are made when the gradient arrives, not kept until then.

    Args:
        table: [V, D].
        rows: int32 [...]; V and more are no rows.

    Returns:
        [..., D].
    """
    return table.at[rows].get(mode="fill", fill_value=0)


def _take_forward(table: jax.Array, rows: jax.Array) -> tuple[jax.Array, Any]:
    return take_rows(table, rows), (table, rows)


def _take_backward(arguments: Any, gradient: jax.Array) -> tuple[jax.Array, None]:
    table, rows = arguments
    nothing = after(jnp.zeros_like(table), gradient.ravel()[0])
    return nothing.at[rows].add(gradient, mode="drop"), None


take_rows.defvjp(_take_forward, _take_backward)


def give_back_memory() -> None:
    """Returns to the system the memory that was freed: 0.7 GB after compiling GPT-1, which glibc would keep."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
