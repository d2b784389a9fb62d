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
from gpt1_jax.data.tokenizers.opening import Tokenizer

# So many tokens are counted at once, or sought through: few, since each place that is found is decoded again and again.
_COUNTED, _SOUGHT = 2**16, 2**10
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


def count_documents(split: Split, end: int, places: np.ndarray) -> np.ndarray:
    """Returns the number, from 0, of the document at each place of the stream, int64.

    Args:
        split: the stream, which begins with an end piece and has one behind each document.
        end: the id of the end piece.
        places: int64, ascending or not.
    """
    order = np.argsort(places, kind="stable")
    found, seen, read = np.zeros(len(places), np.int64), 0, 0
    for number in order:
        place = int(places[number]) + 1
        while read < place:
            stop = min(place, read + _COUNTED)
            seen += int(np.count_nonzero(split.read(read, stop) == end))
            read = stop
        found[number] = max(0, min(seen, split.documents) - 1)
    return found
