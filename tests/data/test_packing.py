"""Sequences in the rows of batches: each once, apart from its neighbours, and with hardly any padding."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from gpt1_jax.data import packing
from gpt1_jax.data.packing import PADDING, Packed, shared_width
from gpt1_jax.data.shapes import Bounds, in_few_shapes

BOUNDS = Bounds(context=512)


def pack(lengths: Any, bounds: Bounds, together: bool = True, least: int = 1) -> list[Packed]:
    """In the shapes of use, several in a row or one."""
    width = shared_width(lengths, bounds.context) if together else None
    return packing.pack(lengths, partial(in_few_shapes, bounds=bounds), width, least)


def lengths_of(count: int, longest: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, longest + 1, count)


def spaces(packed: Packed, least: int = 1) -> list[tuple[int, int, int]]:
    """(row, start, stop) of each sequence."""
    stops = packed.starts + np.maximum(packed.lengths, min(least, packed.shape[1]))
    return [*zip(packed.rows.tolist(), packed.starts.tolist(), stops.tolist(), strict=True)]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 33, 2000])
@pytest.mark.parametrize("multiple", [1, 3])
@pytest.mark.parametrize("least", [1, 16])
@pytest.mark.parametrize("together", [True, False])
def test_each_sequence_has_a_space_of_its_own(count: int, multiple: int, least: int, together: bool) -> None:
    lengths = lengths_of(count, 512)
    batches = pack(lengths, Bounds(512, multiple), together=together, least=least)
    assert sorted(number for packed in batches for number in packed.numbers.tolist()) == [*range(count)]
    for packed in batches:
        np.testing.assert_array_equal(packed.lengths, lengths[packed.numbers])
        rows, width = packed.shape
        assert rows % multiple == 0
        taken = np.zeros((rows, width), int)
        for row, start, stop in spaces(packed, least if packed.several else 1):
            assert stop <= width
            taken[row, start:stop] += 1
        assert taken.max() == 1


def test_few_shapes_are_compiled() -> None:
    """Most rows are about full, so narrower ones hardly pay."""
    for longest in (30, 60, 128, 300, 512):
        together, alone = (pack(lengths_of(3000, longest), BOUNDS, both) for both in (True, False))
        shapes, shapes_alone = ({packed.shape for packed in batches} for batches in (together, alone))
        assert len(shapes) <= 4 and len(shapes) < len(shapes_alone)
    assert [packed.shape for packed in pack([20, 12, 10, 7], BOUNDS)] == [(1, 24)] * 3


def test_rows_that_nothing_fills_are_as_narrow_as_sequences_alone() -> None:
    lengths = [128] + [72] * 999
    together, alone = (
        {packed.shape for packed in pack(lengths, Bounds(128), both)} for both in (True, False)
    )
    assert together == alone == {(8, 128), (12, 80)}


@pytest.mark.parametrize("longest", [30, 60, 128])
def test_hardly_anything_is_padding(longest: int) -> None:
    lengths = lengths_of(2000, longest)
    packed = sum(np.prod(batch.shape) for batch in pack(lengths, Bounds(128)))
    sorted_alone = sum(rows * width for _, rows, width in in_few_shapes(lengths, Bounds(128)))
    assert packed < 1.04 * lengths.sum() < sorted_alone


def test_few_texts_take_few_positions() -> None:
    """Texts of 7 to 62 tokens that are 987 in all have 16 rows of 64 positions, and not 32."""
    lengths = np.linspace(7, 62, 29).astype(int)
    (packed,) = pack(lengths, BOUNDS)
    assert lengths.sum() == 987 and packed.shape == (16, 64)


def test_a_lone_sequence_has_a_row_alone() -> None:
    (packed,) = pack([20], BOUNDS)
    assert packed.shape == (1, 24) and not packed.several
    assert packed.groups() is None and packed.places() is None


def test_rows_tell_where_each_sequence_lies_and_from_where_its_positions_count() -> None:
    lengths = [9, 20, 12]
    (first, second) = pack(lengths, BOUNDS)
    assert (first.numbers.tolist(), second.numbers.tolist()) == ([2, 0], [1])
    np.testing.assert_array_equal(first.lay([[7] * 12, [8] * 9]), [[7] * 12 + [8] * 9 + [0] * 3])
    np.testing.assert_array_equal(first.groups(), [[0] * 12 + [12] * 9 + [PADDING] * 3])
    np.testing.assert_array_equal(first.places(), [[*range(12), *range(9), 0, 0, 0]])


def test_one_sequence_a_row_needs_groups_only_where_padding_would_be_seen() -> None:
    (packed,) = pack([3] * 40, Bounds(16), together=False)
    assert packed.groups() is None and packed.places() is None
    groups = packed.groups(causal=False)
    assert groups is not None
    np.testing.assert_array_equal(groups[:40], [[0] * 3 + [PADDING] * 13] * 40)
    assert (groups[40:] == PADDING).all()
