"""Batches for use: every sequence once, little padding, and programs for few shapes."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpt1_jax.data.shapes import Bounds, fitting_width, in_few_shapes, windows_at_once

BOUNDS = Bounds(context=512)


def test_all_lengths_together_have_few_widths() -> None:
    widths = [fitting_width(length, 512) for length in range(1, 513)]
    narrow, wide = [16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128], [160, 192, 224, 256, 320, 384, 448, 512]
    assert sorted(set(widths)) == narrow + wide
    assert all(length <= width for length, width in enumerate(widths, start=1))


def test_no_width_is_beyond_the_context() -> None:
    assert fitting_width(3, 10) == 10
    assert fitting_width(90, 90) == 90 and fitting_width(59, 90) == 64


@pytest.mark.parametrize("count", [0, 1, 7, 33, 2000])
@pytest.mark.parametrize("multiple", [1, 3])
def test_every_sequence_is_once_in_a_row_that_holds_it(count: int, multiple: int) -> None:
    lengths = np.random.default_rng(count).integers(1, 513, count)
    batches = in_few_shapes(lengths, Bounds(512, multiple))
    numbers = [number for batch in batches for number in batch.numbers.tolist()]
    assert sorted(numbers) == list(range(count))
    for batch in batches:
        assert len(batch.numbers) <= batch.rows and batch.rows % multiple == 0
        assert lengths[batch.numbers].max() <= batch.width
        assert (batch.rows - multiple) * batch.width < BOUNDS.tokens


def test_a_lone_sequence_has_a_row_alone() -> None:
    assert [batch[1:] for batch in in_few_shapes([20], BOUNDS)] == [(1, 24)]


def test_the_longest_come_first_and_equal_ones_in_their_order() -> None:
    batches = in_few_shapes([3, 500, 3, 500], Bounds(512))
    assert [number for batch in batches for number in batch.numbers.tolist()] == [1, 3, 0, 2]


def test_many_sequences_pad_little() -> None:
    lengths = np.random.default_rng(0).integers(20, 100, 3000)
    batches = in_few_shapes(lengths, Bounds(128))
    assert sum(batch.rows * batch.width for batch in batches) < 1.12 * lengths.sum()
    assert len({batch[1:] for batch in batches}) <= 10


def test_a_width_for_which_little_is_left_is_not_compiled() -> None:
    lengths = [128] * 100 + [20] * 10
    assert len({batch[1:] for batch in in_few_shapes(lengths, Bounds(128))}) == 1
    assert len({batch[1:] for batch in in_few_shapes([128] * 100 + [20] * 1000, Bounds(128))}) == 2


def test_sequences_of_one_row_count_as_its_tokens() -> None:
    one, four = (in_few_shapes([64] * 100, BOUNDS, sequences)[0].rows for sequences in (1, 4))
    assert one == 4 * four


def test_no_batch_has_more_rows_than_asked_for() -> None:
    assert {batch.rows for batch in in_few_shapes([16] * 100, BOUNDS, most=5)} == {5}


def mesh_of(platform: str, data: int, fsdp: int) -> Any:
    devices = np.array([SimpleNamespace(platform=platform)] * (data * fsdp))
    return SimpleNamespace(devices=devices, shape={"data": data, "fsdp": fsdp})


@pytest.mark.parametrize(
    ("count", "context", "mesh", "rows"),
    [
        (1000, 512, mesh_of("cpu", 1, 1), 2),
        (4, 128, mesh_of("cpu", 1, 1), 4),
        (3, 128, mesh_of("cpu", 1, 1), 4),
        (1, 2048, mesh_of("cpu", 1, 1), 1),
        (1000, 128, mesh_of("cpu", 3, 1), 9),
        (1, 128, mesh_of("cpu", 4, 2), 8),
        (1000, 512, mesh_of("tpu", 1, 1), 32),
        (1000, 512, mesh_of("tpu", 2, 2), 128),
        (5, 512, mesh_of("tpu", 2, 2), 8),
    ],
)
def test_no_batch_of_windows_is_larger_than_the_text_or_than_is_fast(
    count: int, context: int, mesh: Any, rows: int
) -> None:
    assert windows_at_once(count, mesh, context) == rows
