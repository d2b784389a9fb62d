"""Meshes: -1 takes what remains, what does not divide is refused by name, rows lie where they should."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
from support import tiny_config, use_mesh

from gpt1_jax.config import MeshConfig
from gpt1_jax.devices.mesh import check_divisible, make_mesh, place_rows
from gpt1_jax.errors import UserError


@pytest.mark.parametrize(
    ("asked", "filled"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((1, -1, 1), (1, 8, 1)),
        ((2, 2, -1), (2, 2, 2)),
        ((2, -1, 4), (2, 1, 4)),
        ((-1, 8, 1), (1, 8, 1)),
        ((2, 2, 2), (2, 2, 2)),
        ((1, 1, 1), (1, 1, 1)),  # fewer than there are
        ((1, 2, 2), (1, 2, 2)),
    ],
)
def test_minus_one_takes_the_devices_that_remain(asked: tuple[int, ...], filled: tuple[int, ...]) -> None:
    mesh = make_mesh(MeshConfig(*asked))
    assert tuple(mesh.shape.items()) == tuple(zip(("data", "fsdp", "tensor"), filled, strict=True))
    assert len(set(mesh.devices.flat)) == math.prod(filled)


@pytest.mark.parametrize("asked", [(16, 1, 1), (3, 3, 1), (-1, 3, 1), (-1, 16, 1), (5, -1, 2)])
def test_a_product_that_does_not_fit_is_refused(asked: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"mesh=.* does not fit the 8 devices at hand"):
        make_mesh(MeshConfig(*asked))


def test_a_mesh_that_leaves_a_process_without_devices_is_refused() -> None:
    devices = [SimpleNamespace(process_index=number // 4) for number in range(8)]
    with pytest.raises(UserError, match=r"takes 4 of 8 devices and none of process 1"):
        make_mesh(MeshConfig(4, 1, 1), devices)


@pytest.mark.parametrize(
    ("shape", "overrides", "told"),
    [
        ((4, 2, 1), {"train.batch_size": 12}, ["train.batch_size", "12", "mesh.data=4", "mesh.fsdp=2"]),
        ((8, 1, 1), {"train.accumulation": 2}, ["train.accumulation", "mesh.data=8"]),
        ((1, 8, 1), {"model.d_model": 36}, ["model.d_model=36", "mesh.fsdp=8"]),
        ((1, 1, 8), {}, ["model.num_heads=4", "mesh.tensor=8"]),
        ((1, 1, 4), {"model.d_ff": 66}, ["model.d_ff=66", "mesh.tensor=4"]),
        (
            (1, 4, 1),
            {"model.d_ff": 66, "model.kind": "lstm", "model.num_layers": 1},
            ["model.d_ff=66", "mesh.fsdp=4"],
        ),
    ],
)
def test_a_size_that_does_not_divide_is_refused_with_field_and_axes(
    shape: tuple[int, int, int], overrides: dict[str, int], told: list[str]
) -> None:
    config = tiny_config(**overrides)
    with pytest.raises(UserError) as error:
        check_divisible(config.model, config.train.rows, make_mesh(MeshConfig(*shape)))
    assert all(part in str(error.value) for part in told), error.value


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 4)])
def test_sizes_that_divide_pass(shape: tuple[int, int, int]) -> None:
    config = tiny_config()
    check_divisible(config.model, config.train.rows, make_mesh(MeshConfig(*shape)))


class Rows(NamedTuple):
    number: np.ndarray  # [B]
    content: np.ndarray  # [B, 3]


@pytest.mark.parametrize(
    ("shape", "slices"), [((1, 1, 1), 1), ((8, 1, 1), 8), ((2, 2, 2), 4), ((1, 2, 4), 2), ((1, 1, 4), 1)]
)
def test_each_device_gets_its_rows_and_each_slice_is_made_once(
    shape: tuple[int, int, int], slices: int
) -> None:
    whole = Rows(np.arange(16), np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32))
    asked = []

    def rows(start: int, stop: int) -> Rows:
        asked.append((start, stop))
        return Rows(*(x[start:stop] for x in whole))

    with use_mesh(*shape) as mesh:
        placed = place_rows(rows, 16, mesh)
    size = 16 // slices
    assert sorted(asked) == [(start, start + size) for start in range(0, 16, size)]
    assert isinstance(placed, Rows)
    for found, expected in zip(placed, whole, strict=True):
        assert isinstance(found, jax.Array)
        np.testing.assert_array_equal(found, expected)
        for number, device in enumerate(mesh.devices.flat):  # tensor moves fastest: its devices share rows
            start = number // shape[2] * size
            shard = next(s for s in found.addressable_shards if s.device == device)
            np.testing.assert_array_equal(shard.data, expected[start : start + size])
