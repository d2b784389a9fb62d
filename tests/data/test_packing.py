"""Sequences in the rows of batches: each once, apart from its neighbours, and with hardly any padding."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from gpt1_jax.data import packing
from gpt1_jax.data.packing import PADDING, Packed, shared_widths
from gpt1_jax.data.shapes import Bounds, in_few_shapes

BOUNDS = Bounds(context=512)


def pack(lengths: Any, bounds: Bounds, together: bool = True, least: int = 1) -> list[Packed]:
    """In the shapes of use, several in a row or one."""
    widths = shared_widths(lengths, bounds.context) if together else []
    return packing.pack(lengths, partial(in_few_shapes, bounds=bounds), widths, least)


def lengths_of(count: int, longest: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, longest + 1, count)


def spaces(packed: Packed) -> list[tuple[int, int, int]]:
    """(row, start, stop) of each sequence."""
    places = packed.rows, packed.starts, packed.starts + packed.lengths
    return [*zip(*(x.tolist() for x in places), strict=True)]


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
        for row, start, stop in spaces(packed):
            assert stop <= width
            taken[row, start:stop] += 1
        assert taken.max() == 1
        # Two that begin within as many positions as each takes at least would have one number.
        assert len({*zip(packed.rows, packed.starts // least, strict=True)}) == len(packed.numbers)


@pytest.mark.parametrize("longest", [30, 60, 100, 300, 512])
def test_no_more_programs_are_compiled_than_for_rows_of_one(longest: int) -> None:
    together, alone = (pack(lengths_of(3000, longest), BOUNDS, both) for both in (True, False))
    programs, programs_alone = ({(p.shape, p.several) for p in batches} for batches in (together, alone))
    assert len(programs) <= len(programs_alone)


def test_rows_are_shared_by_two_of_the_usual_length_and_never_wide() -> None:
    assert shared_widths([20, 22, 24, 500], 512) == [48, 128]
    assert shared_widths([20, 22, 24], 40) == [24, 40]
    assert shared_widths([200] * 9, 512) == [128]
    assert shared_widths([20], 512) == shared_widths([], 512) == []


def test_a_sequence_that_is_longer_than_shared_rows_has_its_own() -> None:
    """So one long text does not make the attention of a thousand short ones wide."""
    batches = pack([250] + [20] * 800, BOUNDS)
    assert [(packed.shape, packed.several) for packed in batches[:2]] == [((4, 256), True), ((25, 40), True)]
    (long,) = [packed for packed in batches if 0 in packed.numbers]
    assert (long.rows == long.rows[list(long.numbers).index(0)]).sum() == 1


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
    assert first.several and not second.several
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
