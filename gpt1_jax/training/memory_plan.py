"""Whether a model and its batch can be in memory at all, told before anything is compiled."""

import math
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from gpt1_jax.config import ModelConfig, TrainConfig
from gpt1_jax.devices.memory import memory_at_hand
from gpt1_jax.errors import UserError
from gpt1_jax.training.state import abstract_params

_KEPT = 4  # of each parameter, at the end of a step: itself, its gradient and Adam's two moments


def check_memory(model: nn.Module, sizes: ModelConfig, train: TrainConfig, mesh: Mesh, width: int) -> None:
    """Refuses a plan that surely does not fit the devices.

    Args:
        model: what is trained.
        sizes: of its trunk.
        train: how many sequences are learned from at once.
        mesh: in use.
        width: positions of a sequence.

    Raises:
        UserError: with what is needed, what is there, and which setting makes it smaller.
    """
    kept, passing = memory_needed(abstract_params(model, mesh), sizes, train, mesh, width)
    room = memory_at_hand(mesh)
    if room is not None and kept + passing > room:
        raise UserError(
            f"This needs at least {_gigabytes(kept + passing)} a device, {_gigabytes(kept)} of them for parameters, "
            f"gradients and moments, and {_gigabytes(room)} are there; {advise(kept > room)}."
        )


def memory_needed(
    params: Any, sizes: ModelConfig, train: TrainConfig, mesh: Mesh, width: int
) -> tuple[int, int]:
    """Bytes a device that a step takes at the very least.

    Args:
        params: as `abstract_params` gives them.
        sizes: of the trunk.
        train: how many sequences are learned from at once.
        mesh: in use.
        width: positions of a sequence.

    Returns:
        (Of parameters, gradients and moments; of the batch and its activations.) Of the latter only what even full
        remat keeps is counted, a state for each layer and position; a step takes several times that.
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
    """Which setting makes a step smaller; `kept` is whether parameters, gradients and moments alone are too much."""
    if kept:
        return "set a smaller model, or split it over more devices with mesh.fsdp"
    return "set train.batch_size lower, or train.accumulation higher"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.3g} GB" if size < 1e12 else f"{size / 1e9:,.0f} GB"
