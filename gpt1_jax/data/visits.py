"""Finds a text among the tokens of a corpus, and the batches in which its tokens were read.

Letters: T positions.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from gpt1_jax.data.batches import PretrainingBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.left_out import Document, walk_documents
from gpt1_jax.data.tokenizers.opening import Tokenizer

# So many tokens are sought through at once: few, since each place that is found is decoded again and again.
_SOUGHT = 2**10
# So many before them are decoded too, since a decoded text may lack the first space or the rest of a character.
_BEFORE = 8
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Visit(NamedTuple):
    """A place in a batch at which a text was read.

    Attributes:
        step: the step, from 1, as the log counts.
        row: the row of the batch, from 0.
        position: the position in that row, from 0, of the first token of the text, or of what of it lies there.
        epoch: the pass over the text, from 1.
    """

    step: int
    row: int
    position: int
    epoch: int


def find_text(split: Split, tokenizer: Tokenizer, text: str) -> Iterator[tuple[int, int]]:
    """Yields where in the stream a text stands: its first token, and the one behind its last.

    The text is sought in what the tokens decode to, however it was cut into pieces. A tokenizer that changes texts has
    changed this one too.

    Args:
        split: the tokens.
        tokenizer: made them.
        text: what is sought; not empty.
    """
    sought = text if tokenizer.exact else tokenizer.decode(tokenizer.encode(text))
    if not sought:
        return
    # A token has a byte at least.
    longest = len(sought.encode()) + 1
    size = max(_SOUGHT, longest)
    for start in range(0, len(split), size):
        before = min(start, _BEFORE)
        ids = split.read(start - before, start + size + longest).tolist()
        decoded = tokenizer.decode(ids)
        place = decoded.find(sought)
        ends = cache(lambda token, ids=ids: len(tokenizer.decode(ids[: token + 1]).rstrip(_UNFINISHED)))
        while place >= 0:
            # The tokens that finish the first and the last character.
            first, last = (
                bisect_right(range(len(ids) - 1), character, key=ends)
                for character in (place, place + len(sought) - 1)
            )
            while (
                first and ends(first - 1) == place and tokenizer.decode([ids[first - 1]])[-1:] == _UNFINISHED
            ):
                first -= 1
            # What begins in the overlaps is found in other chunks. No text stands in two documents.
            if before <= first < before + size and tokenizer.end_id not in ids[first : last + 1]:
                yield start - before + first, start - before + last + 1
            place = decoded.find(sought, place + 1)


def find_visits(
    batches: PretrainingBatches, ranges: Sequence[tuple[int, int]], steps: int
) -> Iterator[Visit]:
    """Yields where the tokens of some ranges of the stream were read in the first `steps` steps, in that order.

    Each window that was read is looked at, which takes no more memory than the ranges do.

    Args:
        batches: the batches.
        ranges: for each its first token, and the one behind its last, ascending.
        steps: the number of steps.
    """
    firsts, lasts = np.array(ranges, np.int64).reshape(-1, 2).T
    for step in range(steps):
        starts = batches.starts(step, 0, batches.batch_size)
        # Which ranges end behind a window's beginning, and which begin before its end; both ascend.
        begin = np.searchsorted(lasts, starts, "right")
        end = np.searchsorted(firsts, starts + batches.context_length, "left")
        for row in np.flatnonzero(begin < end).tolist():
            epoch = (step * batches.batch_size + row) // batches.examples_per_epoch
            for place in range(begin[row], end[row]):
                yield Visit(step + 1, row, max(0, int(firsts[place] - starts[row])), epoch + 1)


def documents_in(split: Split, end: int, windows: np.ndarray) -> list[list[Document]]:
    """Returns the documents of which each window of the stream has a token or the end piece, in flat memory.

    Args:
        split: the stream, which begins with an end piece and has one behind each document.
        end: the id of the end piece.
        windows: int64 [·, 2], for each its first token, and the one behind its last; they may overlap.
    """
    found: list[list[Document]] = [[] for _ in windows]
    order, begun = np.argsort(windows[:, 0], kind="stable").tolist(), 0
    within: list[int] = []

    def skips(stop: int) -> bool:
        return not within and (begun == len(order) or stop <= windows[order[begun], 0])

    for document in walk_documents(split, end, skips):
        while begun < len(order) and windows[order[begun], 0] < document.stop:
            within.append(order[begun])
            begun += 1
        for row in within:
            if document.start < windows[row, 1]:
                found[row].append(document)
        within = [row for row in within if document.stop < windows[row, 1]]
        if not within and begun == len(order):
            break
    return found
