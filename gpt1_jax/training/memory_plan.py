"""Checks before anything is compiled whether a model and its batch can fit into memory at all."""

import math
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from gpt1_jax.config import ModelConfig, TrainConfig
from gpt1_jax.devices.memory import memory_at_hand
from gpt1_jax.errors import UserError
from gpt1_jax.training.state import abstract_params

# At the end of a step, each parameter is there four times: itself, its gradient and Adam's two moments.
_KEPT = 4
# A step holds about so many times the states that `memory_needed` counts, by remat, in programs that were compiled for
# CPUs and TPUs.
_HELD = {"none": 12, "dots": 10, "full": 4}


def check_memory(model: nn.Module, sizes: ModelConfig, train: TrainConfig, mesh: Mesh, width: int) -> int:
    """Checks that a plan could fit the devices, and returns about how many bytes it will need on each.

    Args:
        model: the model to train.
        sizes: the sizes of its trunk.
        train: decides the number of sequences in a micro-batch.
        mesh: the mesh in use.
        width: the number of positions in a sequence.

    Raises:
        UserError: it surely does not; the error says what is needed, what there is, and which setting to lower.
    """
    kept, passing = memory_needed(abstract_params(model, mesh), sizes, train, mesh, width)
    room = memory_at_hand(mesh)
    if room is not None and kept + passing > room:
        raise UserError(
            f"This needs at least {_gigabytes(kept + passing)} per device, {_gigabytes(kept)} of that for parameters, "
            f"gradients and moments, but there are {_gigabytes(room)}; {advise(kept > room)}."
        )
    return kept + _HELD[sizes.remat] * passing


def memory_needed(
    params: Any, sizes: ModelConfig, train: TrainConfig, mesh: Mesh, width: int
) -> tuple[int, int]:
    """Returns the least bytes that a step needs on each device.

    Args:
        params: what `abstract_params` returns.
        sizes: the sizes of the trunk.
        train: decides the number of sequences in a micro-batch.
        mesh: the mesh in use.
        width: the number of positions in a sequence.

    Returns:
        The bytes for parameters, gradients and moments, and those for the batch and its activations. Of the latter only
        what even full remat keeps is counted, a state for each layer and position; a step needs several times that.
    """
    kept = _KEPT * sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(params)
    )
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    # Tokens, targets and weights.
    batch = 3 * 4 * (train.batch_size // parts) * width
    states = train.rows // parts * width * sizes.d_model * sizes.num_layers
    return kept, batch + states * jax.numpy.dtype(sizes.dtype).itemsize


def advise(kept: bool) -> str:
    """Returns which setting shrinks a step; `kept`: parameters, gradients and moments alone are too much."""
    if kept:
        return "set a smaller model, or split it over more devices with mesh.fsdp"
    return "set train.batch_size lower, or train.accumulation higher"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.3g} GB" if size < 1e12 else f"{size / 1e9:,.0f} GB"
