"""The training state: its shapes and its places on a mesh, and how it begins."""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from gpt1_jax.devices.mesh import logical_shardings, use


class State(NamedTuple):
    """Everything that a resumed run needs: the number of batches seen, the parameters, the optimizer's moments."""

    step: jax.Array
    params: Any
    optimizer: Any


def abstract_state(model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh) -> State:
    """Returns the shapes, dtypes and shardings of the state, without allocating it."""
    with use(mesh):
        boxed = jax.eval_shape(partial(_beginning, optimizer), _shapes(model, mesh))
        places = logical_shardings(boxed, mesh)
    # Boxes are nodes of a tree, so what they hold are its leaves.
    leaves, structure = jax.tree.leaves(boxed), jax.tree.structure(places)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.tree.unflatten(structure, leaves),
        places,
    )


def abstract_params(model: nn.Module, mesh: Mesh) -> Any:
    """Returns the shapes, dtypes and shardings of a model's parameters."""
    return abstract_state(model, optax.identity(), mesh).params


def initial_state(model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int) -> State:
    """Returns a fresh state, the same on every mesh; each device makes its own part."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, optimizer, mesh))

    def initialize(key: jax.Array) -> State:
        return nn.unbox(_beginning(optimizer, _parameters(model, mesh, key)))

    with use(mesh):
        return jax.jit(initialize, out_shardings=shardings)(jax.random.key(seed))


def _beginning(optimizer: optax.GradientTransformation, params: Any) -> State:
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def _parameters(model: nn.Module, mesh: Mesh, key: jax.Array) -> Any:
    """Returns fresh parameters, in boxes that name their axes."""
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    return model.init(key, jnp.zeros((rows, 1), jnp.int32))["params"]


@lru_cache(maxsize=4)
def _shapes(model: nn.Module, mesh: Mesh) -> Any:
    """Returns the shapes of `_parameters`, which takes a tenth of a second for GPT-1 and is asked several times."""
    with use(mesh):
        return jax.eval_shape(partial(_parameters, model, mesh), jax.eval_shape(lambda: jax.random.key(0)))
