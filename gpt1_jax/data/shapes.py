"""Which sequences share a batch where all of them are known before: few shapes, hence few compiled programs.

A finished model is asked about one text, or about a million. Widths come from a fixed set, so a text of a new length
rarely needs a new program. Long sequences come first, so what does not fit into memory fails at the beginning.

Letters: N sequences.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    # The commands read their input before they import jax.
    from jax.sharding import Mesh

_NARROWEST, _STEP = 16, 8
# A batch has about so many tokens. On CPUs the states of more leave the caches.
_TOKENS_ON_CPUS, _TOKENS = 2**10, 2**14
# So few sequences go one by one.
_FEW = 8
# A narrower program has to spare so many tokens, which take about as long as fetching it from the compilation cache.
_PAYS = 2**10


class Bounds(NamedTuple):
    """What bounds the shapes of batches.

    Attributes:
        context: the longest sequence that the model reads.
        multiple: rows are a multiple of this.
        tokens: a batch has so many at most, but for the multiple.
    """

    context: int
    multiple: int = 1
    tokens: int = _TOKENS_ON_CPUS

    def rounded(self, rows: int) -> int:
        """Returns the least multiple that holds so many rows."""
        return -(-rows // self.multiple) * self.multiple


def bounds_on(mesh: "Mesh", context: int) -> Bounds:
    """Returns the bounds of batches that are computed on a mesh."""
    return Bounds(
        context, mesh.shape["data"] * mesh.shape["fsdp"], _TOKENS_ON_CPUS if _on_cpus(mesh) else _TOKENS
    )


def _on_cpus(mesh: "Mesh") -> bool:
    return mesh.devices.flat[0].platform == "cpu"


class Shared(NamedTuple):
    """Rows that share a batch.

    Attributes:
        numbers: int [N], which they are.
        rows: the rows of the batch, of which the last may be empty.
        width: the positions of a row.
    """

    numbers: np.ndarray
    rows: int
    width: int


def fitting_width(length: int, context: int) -> int:
    """Returns the least of 16, 24, 32, 40, … that holds a length, at most the context.

    They lie 8 apart up to 64, then 16 up to 128, and so on: four from one power of two to the next.
    """
    width = _NARROWEST
    while width < length:
        width += max(_STEP, 1 << (width.bit_length() - 3))
    return min(width, context)


def windows_at_once(count: int, mesh: "Mesh", context: int) -> int:
    """Returns how many of `count` windows of the whole context share a batch: a power of two, or the most."""
    bounds = bounds_on(mesh, context)
    # Accelerators have memory each; the devices of a CPU share its caches.
    tokens = bounds.tokens if _on_cpus(mesh) else bounds.tokens * bounds.multiple
    return bounds.rounded(min(1 << (count - 1).bit_length(), max(1, tokens // context)))


def in_few_shapes(
    lengths: Sequence[int] | np.ndarray, bounds: Bounds, sequences: int = 1, most: int | None = None
) -> list[Shared]:
    """Returns batches that hold each of N rows once, the longest first.

    Args:
        lengths: of the rows, each at most the context.
        bounds: of the shapes.
        sequences: how many sequences a row has.
        most: the most rows of a batch, but for the multiple.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    batches, start, width = [], 0, 0
    while start < len(order):
        needed = fitting_width(int(lengths[order[start]]), bounds.context)
        if not start or (width - needed) * (len(order) - start) * sequences > _PAYS:
            width = needed
        rows = max(1, bounds.tokens // (width * sequences))
        rows = rows if most is None else min(rows, most)
        if len(order) <= min(_FEW, rows // 4):
            rows = 1
        rows = bounds.rounded(rows)
        batches.append(Shared(order[start : start + rows], rows, width))
        start += rows
    return batches
