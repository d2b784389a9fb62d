"""Puts sequences into the rows of batches, several into a row where they fit, so that hardly anything is padding.

The sequences of a row are groups that do not see each other, and each counts its positions from 0: a model finds in
each what it finds in it alone. All batches have one shape, and so one program.

Letters: N sequences, B rows, T positions.
"""

import bisect
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gpt1_jax.data.shapes import Bounds, fitting_width, in_few_shapes

# The group of positions that are padding.
PADDING = -1


class Packed(NamedTuple):
    """Where sequences lie that share a batch.

    Attributes:
        numbers: int [N], which they are.
        lengths: int [N].
        rows, starts: int [N], the row of each, and its first position there.
        shape: B and T; the last rows may be empty.
        several: whether a row may have several.
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
    bounds: Bounds,
    *,
    together: bool = True,
    least: int = 1,
    most: int | None = None,
) -> list[Packed]:
    """Returns batches that hold each of N sequences once, the longest first.

    Args:
        lengths: of the sequences, each at most the context.
        bounds: of the shapes.
        together: whether sequences may share a row; if not, or if there is only one, see `in_few_shapes`.
        least: each takes so many positions at least, or the whole row.
        most: the most rows of a batch, but for the multiple.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    several = together and len(lengths) > 1
    if several:
        width = fitting_width(int(lengths.max()), bounds.context)
        rows, starts = _best_fit(np.maximum(lengths[order], min(least, width)).tolist(), width)
    else:
        rows, starts = np.arange(len(order)), 0 * order
    used = np.zeros(int(rows.max(initial=-1)) + 1, np.int64)
    np.maximum.at(used, rows, starts + lengths[order])
    batches = []
    for members, count, width in in_few_shapes(used, bounds, most=most):
        places = np.full(len(used), -1)
        places[members] = np.arange(len(members))
        here = places[rows] >= 0
        numbers = order[here]
        found = Packed(numbers, lengths[numbers], places[rows[here]], starts[here], (count, width), several)
        batches.append(found)
    return batches


def _best_fit(lengths: Sequence[int], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts each sequence, the longest first, into the fullest row that has room; returns its row and its start."""
    # The free positions of each row and its number, ascending.
    free: list[tuple[int, int]] = []
    found = []
    for length in lengths:
        at = bisect.bisect_left(free, (length, 0))
        room, row = free.pop(at) if at < len(free) else (width, len(free))
        found.append((row, width - room))
        bisect.insort(free, (room - length, row))
    rows, starts = np.array(found).T
    return rows, starts
