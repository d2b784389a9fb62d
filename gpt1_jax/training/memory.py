"""Whether a model and its batch can be in memory at all, told before anything is compiled."""

import math
import resource
from pathlib import Path
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from gpt1_jax.config import Config
from gpt1_jax.errors import UserError
from gpt1_jax.training import sharding
from gpt1_jax.training.step import abstract_state

_KEPT = 4  # of each parameter, at the end of a step: itself, its gradient and Adam's two moments


def check_memory(model: nn.Module, config: Config, mesh: Mesh, width: int) -> None:
    """Refuses a plan that surely does not fit the devices.

    Args:
        model: what is trained.
        config: how many sequences are learned from at once.
        mesh: in use.
        width: positions of a sequence.

    Raises:
        UserError: with what is needed, what is there, and which setting makes it smaller.
    """
    kept, passing = memory_needed(abstract_params(model, mesh), config, mesh, width)
    room = memory_at_hand(mesh)
    if room is not None and kept + passing > room:
        raise UserError(
            f"This needs at least {_gigabytes(kept + passing)} a device, {_gigabytes(kept)} of them for parameters, "
            f"gradients and moments, and {_gigabytes(room)} are there; {advise(kept > room)}."
        )


def abstract_params(model: nn.Module, mesh: Mesh) -> Any:
    """Shapes and shardings of a model's parameters."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        return abstract_state(model, optax.identity(), mesh).params


def memory_needed(params: Any, config: Config, mesh: Mesh, width: int) -> tuple[int, int]:
    """Bytes a device that a step takes at the very least.

    Args:
        params: as `abstract_params` gives them.
        config: how many sequences are learned from at once.
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
    sequences = config.train.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
    batch = 3 * 4 * sequences * width  # tokens, targets, weights
    settings = config.model
    states = sequences // config.train.accumulation * width * settings.d_model * settings.num_layers
    return kept, batch + states * jax.numpy.dtype(settings.dtype).itemsize


def memory_at_hand(mesh: Mesh) -> int | None:
    """Bytes a device of the mesh may take; None where that is not known."""
    device: Any = next((d for d in mesh.devices.flat if d.process_index == jax.process_index()), None)
    if device is None:
        return None
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is not None or device.platform != "cpu":
        return limit
    here = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
    room = machine_memory()
    return None if room is None else room // here  # devices of a CPU share its memory


def machine_memory() -> int | None:
    """Bytes that this process may still take of the machine: free, or within its limits; None off Linux."""
    try:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        sizes = {line[0]: int(line[1]) * 1024 for line in lines}
        rooms = [sizes["MemAvailable:"] + sizes["SwapFree:"]]
    except (OSError, KeyError):
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    rooms += [] if soft == resource.RLIM_INFINITY else [soft]
    return min(rooms + [room for group in _control_groups() if (room := _room_in(group)) is not None])


def _control_groups(
    proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[Path]:
    """The directories of Linux's control groups that may limit this process' memory."""
    found = []
    for line in proc.read_text().splitlines() if proc.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = root
        elif "memory" in controllers.split(","):
            base = root / "memory"
        else:
            continue
        inner = base / path.lstrip("/")
        found += [inner, *(parent for parent in inner.parents if parent.is_relative_to(base))]
    return found


def _room_in(group: Path) -> int | None:
    """Bytes that a control group may still take, files that the system can drop left out; None without a limit."""
    for limit, usage, files in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return None if most == "max" else int(most) - used + int(stat.get(files, 0))
        except (OSError, ValueError):
            continue
    return None


def advise(kept: bool) -> str:
    """Which setting makes a step smaller; `kept` is whether parameters, gradients and moments alone are too much."""
    if kept:
        return "set a smaller model, or split it over more devices with mesh.fsdp"
    return "set train.batch_size lower, or train.accumulation higher"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.3g} GB" if size < 1e12 else f"{size / 1e9:,.0f} GB"
