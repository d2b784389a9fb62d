"""Puts sequences into the rows of batches, several into a row where they fit, so that hardly anything is padding.

The sequences of a row are groups that do not see each other, and each counts its positions from 0: a model finds in
each what it finds in it alone.

Letters: N sequences, B rows, T positions.
"""

import bisect
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gpt1_jax.data.shapes import Shared, fitting_width

# Shared rows have so many positions at most. In wider ones, attention would cost more than padding does.
_WIDEST = 128
# Attention adds to the cost of a position in proportion to its row: 7 % for 64 positions more, measured on CPUs with
# tiny and with GPT-1. By that, it would double the cost in rows of so many.
_DOUBLE = 900
# The group of positions that are padding.
PADDING = -1


class Packed(NamedTuple):
    """Where sequences lie that share a batch.

    Attributes:
        numbers: int [N], which they are.
        lengths: int [N].
        rows, starts: int [N], the row of each, and its first position there.
        shape: B and T; the last rows may be empty.
        several: whether a row has several. Otherwise it is computed by a program that has less to do.
    """

    numbers: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    shape: tuple[int, int]
    several: bool

    def lay(self, parts: Iterable[Sequence[int] | np.ndarray], fill: int = 0) -> np.ndarray:
        """Returns int32 [B, T] with a part where each sequence lies, in their order, and `fill` elsewhere."""
        laid = np.full(self.shape, fill, np.int32)
        for row, start, part in zip(self.rows.tolist(), self.starts.tolist(), parts, strict=True):
            laid[row, start : start + len(part)] = part
        return laid

    def groups(self, causal: bool = True) -> np.ndarray | None:
        """Returns int32 [B, T], a group for each sequence of a row and one for its padding, see `attention.Sight`.

        Where causal rows have one sequence each, it is None: no position sees the padding behind it.
        """
        if causal and not self.several:
            return None
        parts = (np.full(length, start) for start, length in zip(self.starts, self.lengths, strict=True))
        return self.lay(parts, PADDING)

    def places(self) -> np.ndarray | None:
        """Returns int32 [B, T], the place of each position in its sequence; None if they are 0 to T − 1."""
        return self.lay(map(np.arange, self.lengths)) if self.several else None


def pack(
    lengths: Sequence[int] | np.ndarray,
    share: Callable[[np.ndarray], list[Shared]],
    widths: Sequence[int],
    least: int = 1,
) -> list[Packed]:
    """Returns batches that hold each of N sequences once.

    Args:
        lengths: of the sequences.
        share: says which rows share a batch, by how many of their positions are taken, such as `in_few_shapes`.
        widths: how many positions a row may have that several sequences share; longer ones have a row each. The best is
            chosen. Without widths, each sequence has a row of its own.
        least: each takes so many positions of a shared row at least, or the whole row.
    """
    return min((_packed(lengths, share, width, least) for width in widths or [None]), key=_cost)


def shared_widths(lengths: Sequence[int] | np.ndarray, context: int) -> list[int]:
    """Returns widths for rows that sequences of some lengths may share: for two of the usual length, or the longest.

    A lone sequence has a row of its own.
    """
    if len(lengths) < 2:
        return []
    usual, longest = 2 * int(np.median(lengths)), int(max(lengths))
    return sorted({fitting_width(length, min(context, _WIDEST)) for length in (usual, longest)})


def _cost(batches: Sequence[Packed]) -> float:
    """Returns about how long batches take, in positions of narrow rows."""
    return sum(rows * width * (1 + width / _DOUBLE) for rows, width in (packed.shape for packed in batches))


def _packed(
    lengths: Sequence[int] | np.ndarray,
    share: Callable[[np.ndarray], list[Shared]],
    width: int | None,
    least: int,
) -> list[Packed]:
    """Returns batches whose shared rows have one width, see `pack`."""
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    rows, starts = np.arange(len(order)), 0 * order
    if width is not None:
        rows, starts = _best_fit(np.maximum(lengths[order], min(least, width)).tolist(), width)
    taken = np.zeros(int(rows.max(initial=-1)) + 1, np.int64)
    np.maximum.at(taken, rows, starts + lengths[order])
    batches = []
    for members, count, batch_width in share(taken):
        places = np.full(len(taken), -1)
        places[members] = np.arange(len(members))
        here = places[rows] >= 0
        numbers, several = order[here], bool(starts[here].any())
        shape = count, batch_width
        batches.append(Packed(numbers, lengths[numbers], places[rows[here]], starts[here], shape, several))
    return batches


def _best_fit(lengths: Sequence[int], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts each sequence, the longest first, into the fullest row that has room; returns its row and its start."""
    # The free positions of each row and its number, ascending.
    free: list[tuple[int, int]] = []
    found = []
    for length in lengths:
        at = bisect.bisect_left(free, (length, 0))
        room, row = free.pop(at) if at < len(free) else (max(width, length), len(free))
        found.append((row, max(width, length) - room))
        bisect.insort(free, (room - length, row))
    rows, starts = np.array(found).T
    return rows, starts
