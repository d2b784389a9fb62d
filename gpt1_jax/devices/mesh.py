"""The mesh, the one table from logical axes to mesh axes, and how host rows become device arrays."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.linen import spmd
from jax.experimental import mesh_utils
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from gpt1_jax.config import MeshConfig, ModelConfig
from gpt1_jax.errors import UserError
from gpt1_jax.wording import counted

RULES = (
    ("batch", ("data", "fsdp")),
    ("embed", "fsdp"),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("layers", None),
)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh (data, fsdp, tensor) over all or the given devices; -1 takes what the other axes leave.

    Raises:
        UserError: the axes do not fit the number of devices, or leave a process without any.
    """
    sizes = {"data": config.data, "fsdp": config.fsdp, "tensor": config.tensor}
    devices = jax.devices() if devices is None else devices
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    filled = {name: len(devices) // fixed if size == -1 else size for name, size in sizes.items()}
    used = int(np.prod(list(filled.values())))
    if used == 0 or used > len(devices) or (-1 in sizes.values() and used != len(devices)):
        raise UserError(
            f"mesh={sizes} does not fit the {counted(len(devices), 'device')} at hand; choose axes whose product is at "
            "most that (-1 takes what remains, and must fit)."
        )
    idle = {device.process_index for device in devices} - {d.process_index for d in devices[:used]}
    if idle:
        raise UserError(
            f"mesh={sizes} takes {used} of {counted(len(devices), 'device')} and none of process "
            f"{', '.join(map(str, sorted(idle)))}; choose larger axes (-1 takes what remains) or start fewer processes."
        )
    axes, types = tuple(filled), (AxisType.Auto,) * 3
    # An axis may be part of an axis of the TPU's torus.
    split = {"allow_split_physical_axes": True}
    if config.slices == 1:
        grid = mesh_utils.create_device_mesh(tuple(filled.values()), devices[:used], **split)
        return Mesh(grid, axes, axis_types=types)
    data, slices = filled.pop("data"), config.slices
    try:
        if data % slices:
            raise ValueError(f"mesh.data={data} is not a multiple of it")
        grid = mesh_utils.create_hybrid_device_mesh(
            (data // slices, *filled.values()),
            (slices, 1, 1),
            devices[:used],
            **split,
            # Except on TPUs, a process counts as a slice.
            process_is_granule=not hasattr(devices[0], "slice_index"),
        )
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"mesh.slices={slices} does not fit the devices ({reason}); set the number of slices that there are."
        ) from error
    return Mesh(grid, axes, axis_types=types)


@contextmanager
def use(mesh: Mesh) -> Iterator[None]:
    """Within its context, arrays are placed on the mesh, and parameters by their logical axes."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield


@contextmanager
def use_any_device() -> Iterator[None]:
    """Within its context, programs are traced for one device of no kind, and so without what one compiler needs."""
    mesh = AbstractMesh(
        (1, 1, 1),
        ("data", "fsdp", "tensor"),
        axis_types=(AxisType.Auto,) * 3,
        abstract_device=AbstractDevice("any", None, "any"),
    )
    with jax.sharding.use_abstract_mesh(mesh), nn.logical_axis_rules(RULES):
        yield


def platform() -> str:
    """What the devices in use are, as jax names it (cpu, gpu, tpu): the mesh's, without one the default device's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def device_kind() -> str:
    """Returns the kind of the devices in use, as jax names it, such as TPU v5 lite; it is "" where none is known."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return "" if device is None else device.device_kind


def check_divisible(model: ModelConfig, rows: int, mesh: Mesh) -> None:
    """Checks that sizes divide over the mesh.

    Args:
        model: the sizes of the model.
        rows: the number of sequences in a micro-batch.
        mesh: the mesh.

    Raises:
        UserError: a size does not divide; the error names the field, the axes and the sizes.
    """
    axes = dict(mesh.shape)
    heads = ("model.num_heads", model.num_heads, ("tensor",))
    # The recurrent matrix is split both ways.
    units = ("model.d_ff", model.d_ff, ("fsdp",))
    for field, size, names in (
        ("train.batch_size / train.accumulation", rows, ("data", "fsdp")),
        ("model.d_model", model.d_model, ("fsdp",)),
        ("model.d_ff", model.d_ff, ("tensor",)),
        heads if model.kind == "transformer" else units,
    ):
        parts = int(np.prod([axes[name] for name in names]))
        if size % parts:
            meshes = " × ".join(f"mesh.{name}={axes[name]}" for name in names)
            raise UserError(
                f"{field}={size} does not divide over {meshes}; set a multiple of {parts}, or a smaller mesh."
            )


def mesh_at_hand(config: MeshConfig, model: ModelConfig, rows: int) -> Mesh:
    """Returns the mesh of a config, or one of all devices where the config's does not fit those at hand."""
    try:
        mesh = make_mesh(config)
        check_divisible(model, rows, mesh)
    except UserError:
        return make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1))
    return mesh


def logical_shardings(boxed: Any, mesh: Mesh) -> Any:
    """Returns the NamedSharding of every leaf in a tree of linen's partitioned boxes, by RULES."""
    return spmd.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, RULES)


def placements(params: Any) -> list[str]:
    """Returns a line for each parameter: name, shape, the mesh axes that split it, and megabytes per device."""
    lines = []
    for path, leaf in jax.tree.leaves_with_path(params):
        spec = (*leaf.sharding.spec, *(None,) * leaf.ndim)[: leaf.ndim]
        axes = ", ".join("·" if axis is None else str(axis) for axis in spec)
        size = np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        name = "/".join(str(key.key) for key in path)
        lines.append(
            f"{name:24} {' × '.join(map(str, leaf.shape)):24} ({axes})  {size / 1e6:.2f} MB per device"
        )
    return lines


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of values that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays [B, ...] whose rows are split over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def place_rows(rows: Callable[[int, int], Any], batch_size: int, mesh: Mesh) -> Any:
    """Places a global batch, of which each host makes only the rows that its own devices hold.

    Args:
        rows: takes start and stop; returns those rows of the global batch, a NamedTuple of arrays [stop − start, ...],
            of which some may be None.
        batch_size: B.

    Returns:
        The same NamedTuple with global jax arrays [B, ...].
    """
    sharding, read = batch_sharding(mesh), functools.cache(rows)

    def bounds(index: tuple[slice, ...] | None) -> tuple[int, int]:
        # The index is None only for devices of other hosts.
        assert index is not None
        return index[0].indices(batch_size)[:2]

    sample = read(*bounds(next(iter(sharding.addressable_devices_indices_map((batch_size,)).values()))))

    def place(field: str) -> jax.Array | None:
        if getattr(sample, field) is None:
            return None
        shape = (batch_size, *getattr(sample, field).shape[1:])
        return jax.make_array_from_callback(
            shape, sharding, lambda index: getattr(read(*bounds(index)), field)
        )

    return type(sample)(*map(place, sample._fields))


def shapes_of(tree: Any) -> Any:
    """Returns the shapes, dtypes and shardings of a tree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
