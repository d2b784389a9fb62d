"""Which documents are held out of a text that has no splits of its own."""

from collections.abc import Iterator
from typing import Literal

from gpt1_jax.hashing import hash_numbers

SplitName = Literal["train", "validation"]
# One document in this many is held out.
HELD_OUT = 20


def select_split(
    documents: Iterator[str], split: SplitName, before: int, total: int, split_seed: int
) -> Iterator[str]:
    """Yields the documents that belong to `split`.

    One document of each block of 20 is held out for validation. A hash of the seed and the block's number chooses
    it, so any part of the text can be read alone, and appending documents changes nothing before them. If the whole
    text has fewer than 20 documents, they form one block. If it has only one, its last 5 % are held out. Documents
    that alternate, say between two languages, land on both sides.

    Args:
        documents: all documents of the text or of a part of it, in order, none empty.
        split: the split to yield.
        before: the number of documents in the text before these.
        total: the number of documents in the whole text; any number from 20 on has the same effect.
        split_seed: `data.split_seed`; -1 holds out the last document of each block.
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
    """Returns where the last 5 % of a document begin: just after a line break near that point, or else a space."""
    target = len(document) * 95 // 100
    for mark in ("\n", " "):
        position = document.rfind(mark, len(document) * 94 // 100, target)
        if position >= 0:
            return position + 1
    return target
