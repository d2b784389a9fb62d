"""A memory of words for tokenizers to which a text is the words between its spaces: each is encoded once."""

import re
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np

# A single space between words goes with the word behind it: GPT-2's pieces begin with such a space, BERT's drop it.
_CUT = re.compile(r"(?<=\S)(?= \S)")
# Beyond this many characters the memory is cleared; words of a million of them take about 20 MB.
_MOST_CHARACTERS = 2**22


class WordMemory:
    """Encodes texts by way of their words; several threads may do so at once."""

    def __init__(self, encode: Callable[[list[str]], Sequence[Sequence[int]]]) -> None:
        """Takes the function that encodes words, each with the space before it."""
        self._encode = encode
        self._known: dict[str, Sequence[int]] = {}
        self._characters = 0

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text, int32 [N]."""
        if self._characters > _MOST_CHARACTERS:
            # Another thread may still read the old one.
            self._known, self._characters = {}, 0
        known, words = self._known, _CUT.split(text)
        new = [*{word for word in words if word not in known}]
        if new:
            known.update(zip(new, self._encode(new), strict=True))
            self._characters += sum(map(len, new))
        return np.array([*chain.from_iterable(map(known.__getitem__, words))], np.int32)
