"""Finds a text among the tokens of a corpus, and the batches in which its tokens were read.

Letters: T positions.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gpt1_jax.data.batches import PretrainingBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.tokenizers.opening import Tokenizer

# So many tokens are decoded or counted at once.
_CHUNK = 2**16


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
    # A token has a byte at least.
    longest = len(sought.encode()) + 1
    for start in range(0, len(split), _CHUNK):
        ids = split.read(start, start + _CHUNK + longest).tolist()
        decoded = tokenizer.decode(ids)
        place = decoded.find(sought)
        while place >= 0:
            first = _token_at(tokenizer, ids, place)
            last = _token_at(tokenizer, ids, place + len(sought) - 1)
            # What begins in the overlap is found in the next chunk. No text stands in two documents.
            if first < _CHUNK and tokenizer.end_id not in ids[first : last + 1]:
                yield start + first, start + last + 1
            place = decoded.find(sought, place + 1)


def _token_at(tokenizer: Tokenizer, ids: Sequence[int], place: int) -> int:
    """Returns the token that spells a character of what ids decode to."""
    low, high = 0, len(ids) - 1
    while low < high:
        middle = (low + high) // 2
        if len(tokenizer.decode(ids[: middle + 1])) > place:
            high = middle
        else:
            low = middle + 1
    return low


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
            stop = min(place, read + _CHUNK)
            seen += int(np.count_nonzero(split.read(read, stop) == end))
            read = stop
        found[number] = max(0, min(seen, split.documents) - 1)
    return found
