"""An LSTM's recurrence over positions, on any mesh.

Letters: T positions, B sequences, U units. The gates [4, U] are in the order input, forget, cell candidate,
output, as in torch.nn.LSTM.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gpt1_jax.config import ModelConfig
from gpt1_jax.model.layers import remat_policy

# The forget gate's number.
FORGET = 1


def recurrence(inputs: jax.Array, kernel: jax.Array, config: ModelConfig) -> jax.Array:
    """Returns the states of an LSTM that starts from zeros.

    Runs under a mesh with the axes data, fsdp and tensor; the only collective within the loop over T gathers the
    states [B, U] over tensor.

    Args:
        inputs: [T, B, 4, U], what the tokens and the bias add to the gates; B split over data and fsdp, U over
            tensor.
        kernel: [U, 4, U], of inputs' dtype, split over fsdp and tensor.
        config: only its remat is read.

    Returns:
        [T, B, U], split as inputs.
    """

    def local(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return _states(inputs, jax.lax.all_gather(kernel, "fsdp", axis=0, tiled=True), config)

    batch, split = ("data", "fsdp"), PartitionSpec("fsdp", None, "tensor")
    gates, states = PartitionSpec(None, batch, None, "tensor"), PartitionSpec(None, batch, "tensor")
    return jax.shard_map(local, in_specs=(gates, split), out_specs=states, check_vma=False)(inputs, kernel)


def _scan(inputs: jax.Array, kernel: jax.Array, config: ModelConfig) -> jax.Array:
    def step(carry: Any, added: jax.Array) -> tuple[Any, jax.Array]:
        state, cell = carry
        state = jax.lax.all_gather(state, "tensor", axis=1, tiled=True)
        gates = jnp.einsum("bu,ucv->bcv", state, kernel, preferred_element_type=jnp.float32) + added
        enter, forget, candidate, leave = (gates[:, i] for i in range(4))
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
        state = (jax.nn.sigmoid(leave) * jnp.tanh(cell)).astype(inputs.dtype)
        return (state, cell), state

    if config.remat != "none":
        step = jax.checkpoint(step, prevent_cse=False, policy=remat_policy(config))
    # The cell stays in float32, since it sums over T positions.
    start = jnp.zeros((inputs.shape[1], inputs.shape[3]))
    return jax.lax.scan(step, (start.astype(inputs.dtype), start), inputs)[1]


def _forward(inputs: jax.Array, kernel: jax.Array, config: ModelConfig) -> tuple[jax.Array, Any]:
    states, pullback = jax.vjp(lambda inputs: _scan(inputs, kernel, config), inputs)
    return states, (states, pullback)


def _backward(config: ModelConfig, kept: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes the kernel's gradient in one matmul over all positions; the scan's own would sum over T in the loop."""
    states, pullback = kept
    (d_gates,) = pullback(cotangent)
    before = jax.lax.all_gather(states[:-1], "tensor", axis=2, tiled=True)
    return d_gates, jnp.einsum("tbu,tbcv->ucv", before, d_gates[1:])


_states = jax.custom_vjp(_scan, nondiff_argnums=(2,))
_states.defvjp(_forward, _backward)
