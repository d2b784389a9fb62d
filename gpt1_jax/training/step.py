"""The training state and the one compiled step that moves it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from gpt1_jax.cpu import after, give_back_memory
from gpt1_jax.devices.compiler_options import compiler_options
from gpt1_jax.devices.mesh import batch_sharding, logical_shardings, replicated
from gpt1_jax.training.objectives import Objective
from gpt1_jax.training.optimizers import Schedule, applied_updates


class State(NamedTuple):
    """Everything a resumed run needs: batches seen, parameters, the optimizer's moments."""

    step: jax.Array
    params: Any
    optimizer: Any


def abstract_state(model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh) -> State:
    """Shapes, dtypes and shardings of the state, nothing allocated."""
    initialize, key = _initializer(model, optimizer, mesh), jax.eval_shape(lambda: jax.random.key(0))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(lambda key: nn.unbox(initialize(key)), key),
        logical_shardings(jax.eval_shape(initialize, key), mesh),
    )


def initial_state(model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int) -> State:
    """A fresh state, the same on every mesh, each device making its own part."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, optimizer, mesh))
    initialize = _initializer(model, optimizer, mesh)
    return jax.jit(lambda key: nn.unbox(initialize(key)), out_shardings=shardings)(jax.random.key(seed))


def _initializer(model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh):
    rows = mesh.shape["data"] * mesh.shape["fsdp"]

    def initialize(key: jax.Array) -> State:
        params = model.init(key, jnp.zeros((rows, 1), jnp.int32))["params"]
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return initialize


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    abstract: State,
    accumulation: int,
):
    """The jitted step (state, batch) → (state, metrics); the state is donated.

    The metrics are "loss", the objective's parts, "grad_norm" and "learning_rate".

    The weights of a batch sum to 1, so its loss and gradient are the sums over its micro-batches. A step whose
    loss or gradient norm is not finite leaves parameters and moments as they were.
    """
    gradient = jax.value_and_grad(objective, has_aux=True)

    def accumulated(params: Any, batch: Any) -> tuple[tuple[jax.Array, dict[str, jax.Array]], Any]:
        if accumulation == 1:
            return gradient(params, batch)

        def split(
            x: jax.Array,
        ) -> jax.Array:  # interleaved: every device keeps rows of its own, nothing moves
            return x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1)

        def add(total: Any, micro_batch: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(params, micro_batch)), None

        micro_batches = jax.tree.map(split, batch)
        shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], micro_batches))
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.scan(add, zero, micro_batches)[0]

    def train_step(state: State, batch: Any) -> tuple[State, dict[str, jax.Array]]:
        (loss, parts), gradients = accumulated(state.params, batch)
        norm = optax.tree.norm(gradients)
        updates, moments = optimizer.update(gradients, state.optimizer, state.params)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        params, moments = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (optax.apply_updates(state.params, updates), moments),
            (state.params, state.optimizer),
        )
        # So that all are updated in place: the new parameters are computed from the old moments.
        moments = optax.tree_map_params(optimizer, after, moments, params)
        rate = schedule(applied_updates(state.optimizer))
        metrics = {"loss": loss, **parts, "grad_norm": norm, "learning_rate": rate}
        return State(state.step + 1, params, moments), metrics

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        train_step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh),
    )


def compile_step(train_step: Any, state: Any, batch: Any) -> Any:
    """The train step, compiled for arguments of these shapes and places."""
    compiled = train_step.lower(state, batch).compile()
    give_back_memory()
    return compiled
