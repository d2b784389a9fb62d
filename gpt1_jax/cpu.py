"""What glibc and XLA for CPUs need to be told; the model, its loss and its step can be read without it.

XLA for CPUs keeps and copies arrays that other compilers do not. Forcing an order of computation that XLA cannot undo
avoids this. On other devices the functions change nothing: a v5e's program would be 7 % slower by its compiler's
estimate.
"""

import ctypes
import math
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpt1_jax.devices.mesh import platform


def on_cpu() -> bool:
    """Returns whether the traced program is for CPUs."""
    return platform() == "cpu"


def after(x: jax.Array, other: jax.Array) -> jax.Array:
    """Returns x, which CPUs then compute after `other`; the result is NaN where `other` is NaN.

    jax.lax.optimization_barrier has the same purpose, but XLA for CPUs drops it early. No compiler can decide the
    comparison with NaN in advance.

    Args:
        x: the array to compute late.
        other: an array that broadcasts to x's shape.
    """
    return jnp.where(jnp.isnan(other), other.astype(x.dtype), x) if on_cpu() else x


def late_zeros(shape: tuple[int, ...], dtype: Any, other: jax.Array) -> jax.Array:
    """Returns zeros, which CPUs make only when `other` exists instead of keeping them until then."""
    return after(jnp.zeros(shape, dtype), other.ravel()[0])


def recomputed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns the function with a backward pass that, on CPUs, keeps only the arguments and recomputes the rest.

    jax.checkpoint has the same purpose, but XLA for CPUs recomputes at once instead of when the gradient arrives,
    unless the layers are a loop. The result must have the shape of the first argument, up to the last dimension.
    Arguments are trees of arrays.
    """

    @jax.custom_vjp
    def again(*arguments: Any) -> jax.Array:
        return function(*arguments)

    def forward(*arguments: Any) -> tuple[jax.Array, Any]:
        return function(*arguments), arguments

    def backward(arguments: Any, gradient: jax.Array) -> Any:
        first, *others = arguments
        # On several devices, this number would have to be sent to all of them.
        if jax.sharding.get_abstract_mesh().size < 2:
            number = gradient.ravel()[0]
            # This makes XLA cut the layers' weights out of their stack a second time instead of keeping them.
            others = jax.tree.map(lambda x: after(x, number), others)
        return jax.vjp(function, after(first, gradient[..., :1]), *others)[1](gradient)

    again.defvjp(forward, backward)
    return wraps(function)(lambda *arguments: (again if on_cpu() else function)(*arguments))


def product(x: jax.Array, kernel: jax.Array, axes: int = 1) -> jax.Array:
    """Returns jnp.tensordot(x, kernel, axes): [..., *A] · [*A, *C] → [..., *C], where A are `axes` dimensions.

    On one CPU, the kernel's gradient is a product that XLA has a fast form for. By itself, XLA would transpose the
    wider operand, on one core, and multiply in its slowest form.
    """
    if on_cpu() and jax.sharding.get_abstract_mesh().size < 2:
        return _teaching(jnp.tensordot(x, jax.lax.stop_gradient(kernel), axes), x, kernel, axes)
    return jnp.tensordot(x, kernel, axes)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _teaching(y: jax.Array, x: jax.Array, kernel: jax.Array, axes: int) -> jax.Array:
    """Returns y, the product of x and a kernel, and gives its gradient on to the kernel.

    The product itself stays outside, where a policy of what to compute again can see it.
    """
    return y


def _teaching_forward(y: jax.Array, x: jax.Array, kernel: jax.Array, axes: int) -> tuple[jax.Array, Any]:
    return y, (x, kernel)


def _teaching_backward(axes: int, arguments: Any, gradient: jax.Array) -> tuple[jax.Array, None, jax.Array]:
    x, kernel = arguments
    rows = math.prod(kernel.shape[:axes])
    found = _summed_products(x.reshape(-1, rows), gradient.reshape(-1, kernel.size // rows))
    return gradient, None, found.reshape(kernel.shape)


_teaching.defvjp(_teaching_forward, _teaching_backward)


def _summed_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns xᵀ · y, [N, A] and [N, C] → [A, C], for which the narrower one is transposed."""
    if x.shape[1] > y.shape[1]:
        return _summed_products(y, x).T
    # Without the barriers, XLA would move the transpositions to the wider one.
    barrier = jax.lax.optimization_barrier
    return barrier(barrier(x.T) @ y)


@jax.custom_vjp
def take_rows(table: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns table[rows], with zeros for rows that do not exist.

    On CPUs, the zeros that the table's gradient starts from are made when the gradient arrives, not kept until then.

    Args:
        table: [V, D].
        rows: int32 [...]; numbers from V on are not rows.

    Returns:
        [..., D].
    """
    return table.at[rows].get(mode="fill", fill_value=0)


def _take_forward(table: jax.Array, rows: jax.Array) -> tuple[jax.Array, Any]:
    return take_rows(table, rows), (table, rows)


def _take_backward(arguments: Any, gradient: jax.Array) -> tuple[jax.Array, None]:
    table, rows = arguments
    nothing = late_zeros(table.shape, table.dtype, gradient)
    return nothing.at[rows].add(gradient, mode="drop"), None


take_rows.defvjp(_take_forward, _take_backward)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Returns `optax.clip_by_global_norm` with one factor for all elements: gradients · min(1, max_norm / norm).

    optax divides each element, which XLA does not fuse into what comes next but stores.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        scale = jnp.minimum(1, max_norm / optax.tree.norm(updates))
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def give_back_memory() -> None:
    """Returns freed memory to the system; after compiling GPT-1, glibc would otherwise keep 0.7 GB."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
