"""Which documents of a text that has no splits of its own are held out."""

from collections.abc import Iterator
from typing import Literal

SplitName = Literal["train", "validation"]
HELD_OUT = 20  # every so many documents one is


def hold_out(documents: Iterator[str], split: SplitName, before: int, total: int) -> Iterator[str]:
    """Yields those of some documents that belong to `split`.

    Every 20th document of a text is held out for validation; of fewer than 20 the last one; of a lone document the
    last 5 %.

    Args:
        documents: in their order, none empty; all of the text or a part.
        split: the one that is asked for.
        before: how many documents of the text are before these.
        total: the documents of the whole text; from 20 on their exact number makes no difference.
    """
    held_out = min(total, HELD_OUT) - 1
    for index, document in enumerate(documents, before):
        if total == 1:
            cut = _find_cut(document)
            if part := document[:cut] if split == "train" else document[cut:]:
                yield part
        elif (index % HELD_OUT == held_out) == (split == "validation"):
            yield document


def _find_cut(document: str) -> int:
    """Where the last 5 % of a document begin: behind a line break, else a space, close before that point."""
    target = len(document) * 95 // 100
    for mark in ("\n", " "):
        position = document.rfind(mark, len(document) * 94 // 100, target)
        if position >= 0:
            return position + 1
    return target
