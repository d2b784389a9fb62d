"""A memory of words for tokenizers to which a text is its words, each with the white space before it.

Finding the words of a text takes a tenth of the time that the libraries take to encode it, and nearly all of them have
been met before. So each is encoded once.
"""

import re
from array import array
from collections.abc import Callable, Sequence

import numpy as np

# White space as Rust knows it: without the control characters that separate records, which Python counts too.
_SPACE, _SIGN = r"[^\S\x1c-\x1f]", r"[\S\x1c-\x1f]"
# No piece of GPT-2's goes on from a sign to white space.
BYTE_WORDS = re.compile(f"{_SPACE}*{_SIGN}+|{_SPACE}+")
# No piece of SentencePiece's or BERT's goes on from a sign to a space, or beyond a line break. Other white space may be
# a sign like all others, or be dropped like other control characters.
SPACED_WORDS = re.compile(r"\n| *[^ \n]+| +")

# With more threads than these the libraries are faster, since one thread looks words up.
WORTH_REMEMBERING = 6
# Beyond this many characters the memory is cleared; words of a million of them take about 20 MB.
_MOST_CHARACTERS = 2**22


class WordMemory:
    """Encodes texts by way of their words; several threads may do so at once."""

    def __init__(
        self, words: re.Pattern[str], encode: Callable[[list[str]], Sequence[Sequence[int]]]
    ) -> None:
        """Takes the pattern by which all of a text is words, and the function that encodes some of them."""
        self._find, self._encode = words.findall, encode
        # The ids as bytes, since joining these takes a quarter of the time that making an array of numbers takes.
        self._known: dict[str, bytes] = {}
        self._characters = 0

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text, int32 [N]."""
        if self._characters > _MOST_CHARACTERS:
            # Another thread may still read the old one.
            self._known, self._characters = {}, 0
        known, words = self._known, self._find(text)
        if new := [*{*words}.difference(known)]:
            known.update(zip(new, (array("i", ids).tobytes() for ids in self._encode(new)), strict=True))
            self._characters += sum(map(len, new))
        # A bytearray can be written to, as the libraries' arrays can.
        return np.frombuffer(bytearray(b"".join(map(known.__getitem__, words))), np.int32)
