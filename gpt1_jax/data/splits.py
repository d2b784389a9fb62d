"""Which documents of a text that has no splits of its own are held out."""

from collections.abc import Iterator
from typing import Literal

from gpt1_jax.hashing import hash_numbers

SplitName = Literal["train", "validation"]
HELD_OUT = 20  # every so many documents one is


def hold_out(
    documents: Iterator[str], split: SplitName, before: int, total: int, split_seed: int
) -> Iterator[str]:
    """Yields those of some documents that belong to `split`.

    One of each block of 20 documents is held out for validation, drawn by a hash of the seed and the block's number: no
    state, whatever part of the text is read, and the same one when documents are appended. Of fewer than 20 it is one
    of all; of a lone document the last 5 %. Documents that take turns, say between two languages, are thus found on
    both sides.

    Args:
        documents: in their order, none empty; all of the text or a part.
        split: the one that is asked for.
        before: how many documents of the text are before these.
        total: the documents of the whole text; from 20 on their exact number makes no difference.
        split_seed: `data.split_seed`; -1 draws the last of each block.
    """
    size = min(total, HELD_OUT)
    block = drawn = -1
    for index, document in enumerate(documents, before):
        if index // HELD_OUT != block:
            block = index // HELD_OUT
            drawn = size - 1 if split_seed == -1 else int(hash_numbers(split_seed, block)) % size
        if total == 1:
            cut = _find_cut(document)
            if part := document[:cut] if split == "train" else document[cut:]:
                yield part
        elif (index % HELD_OUT == drawn) == (split == "validation"):
            yield document


def _find_cut(document: str) -> int:
    """Where the last 5 % of a document begin: behind a line break, else a space, close before that point."""
    target = len(document) * 95 // 100
    for mark in ("\n", " "):
        position = document.rfind(mark, len(document) * 94 // 100, target)
        if position >= 0:
            return position + 1
    return target
