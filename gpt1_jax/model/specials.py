"""The three tokens that fine-tuning adds to a vocabulary, in the padding of the token table.

Letters: V the tokenizer's pieces.
"""

from typing import NamedTuple


class Specials(NamedTuple):
    """The ids of the three tokens."""

    start: int
    delimiter: int
    extract: int


SPECIALS = len(Specials._fields)


def special_ids(vocab_size: int) -> Specials:
    """Returns V, V + 1 and V + 2, the rows right after those of the pieces."""
    return Specials(*range(vocab_size, vocab_size + SPECIALS))
