"""The building blocks of trunks: parameters with logical axes, layer norm, the MLP's product, placement on a mesh.

Letters: B sequences, T positions, D width, F hidden.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import spmd

from gpt1_jax import cpu, gpu, tpu
from gpt1_jax.config import ModelConfig

INIT_STDDEV = 0.02

normal = nn.initializers.normal(INIT_STDDEV)
zeros, ones = nn.initializers.zeros, nn.initializers.ones


def parameter(
    module: nn.Module, name: str, axes: tuple[str | None, ...], init: Any, *shape: int
) -> jax.Array:
    """Returns a float32 parameter of a module, with named logical axes; for use while the module is being called."""
    return cast(jax.Array, module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32))


def norm_parameters(module: nn.Module, name: str, width: int) -> tuple[jax.Array, jax.Array]:
    """Returns the gain and the bias of a norm, NAME_scale and NAME_bias; for use as `parameter`."""
    return (
        parameter(module, f"{name}_scale", ("embed",), ones, width),
        parameter(module, f"{name}_bias", ("embed",), zeros, width),
    )


def starting(config: ModelConfig, deviation: float = INIT_STDDEV) -> Any:
    """Returns how matrices start: from a normal distribution, which BERT cuts off at two deviations."""
    initializers = nn.initializers
    return initializers.normal(deviation) if config.causal else initializers.truncated_normal(deviation)


def starting_residual(config: ModelConfig) -> Any:
    """Returns how the matrices start whose products are added to the states.

    GPT-2's are scaled by one over the root of the number of sums, of which each layer has two: nothing normalizes what
    it adds up.
    """
    sums = 2 * config.num_layers if config.norm == "pre" else 1
    return starting(config, INIT_STDDEV * sums**-0.5)


def starting_positions(config: ModelConfig) -> Any:
    """Returns how the table of positions starts, for GPT-2 with half the deviation, as in its authors' code."""
    return starting(config, INIT_STDDEV / 2 if config.norm == "pre" else INIT_STDDEV)


def constrained(x: jax.Array, *axes: str | None) -> jax.Array:
    """Returns x split over the mesh by its logical axes."""
    return cast(jax.Array, spmd.with_logical_constraint(x, axes))


def batch_sharded(x: jax.Array) -> jax.Array:
    """Returns x [B, ...] split over the mesh only by its sequences."""
    return gpu.in_rows(constrained(x, "batch", *(None,) * (x.ndim - 1)))


def remat_policy(config: ModelConfig) -> Callable[..., bool] | None:
    """Returns the policy of what `config.remat`, if not "none", keeps for the backward pass; None keeps nothing."""
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable if config.remat == "dots" else None


def product(x: jax.Array, kernel: jax.Array, axes: int = 1) -> jax.Array:
    """Returns jnp.tensordot(x, kernel, axes): [..., *A] · [*A, *C] → [..., *C], where A are `axes` dimensions."""
    return gpu.product(x, kernel, axes) if gpu.on_gpu() else cpu.product(x, kernel, axes)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns x [B, T, ...] + bias [...], cast to the dtype of x."""
    return gpu.add_bias(x, bias) if gpu.on_gpu() else tpu.add_bias(x, bias)


@cache
def layer_norm(epsilon: float) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Returns the function (x [..., D], scale, bias) that normalizes over D with the biased variance, in float32."""

    @cpu.recomputed
    def norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        if gpu.on_gpu():
            return gpu.layer_norm(x, scale, bias, epsilon)
        dtype = x.dtype
        x, variance = tpu.centered(x)
        x = x * jax.lax.rsqrt(variance + epsilon)
        return (x * scale + bias).astype(dtype)

    return norm


# The authors' `act_fns`, whose GELU is the approximation by tanh, and the exact GELU.
ACTIVATIONS = {
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "swish": jax.nn.swish,
}


@cache
def activated_product(activation: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the function activation(x) · kernel; x [B, T, F], kernel [F, D] → [B, T, D]."""

    activate = gpu.computed_again(ACTIVATIONS[activation])

    @cpu.recomputed
    def function(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return product(constrained(activate(x), "batch", None, "mlp"), kernel)

    return function
