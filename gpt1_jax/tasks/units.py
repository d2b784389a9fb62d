"""Texts cut into units, each a word or a sign, whose pieces know their characters, for tokenizers of any kind.

No tokenizer has to tell where its pieces lie. A unit is encoded by itself, with the space before it. Decoding the first
few pieces of a unit shows how many of its characters they have.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gpt1_jax.data.tokenizers.opening import Tokenizer

_UNIT = re.compile(r"\w+|[^\w\s]")
# Categories of characters within words that are no letters to `re`: accents and vowel signs by themselves, and joiners.
_MARKS = ("Mn", "Mc", "Me", "Cf")


class Word(NamedTuple):
    """A unit of a text, and the characters of the text that it takes."""

    text: str
    start: int
    end: int


class Piece(NamedTuple):
    """A piece of a text, and the characters of the text that it takes."""

    id: int
    start: int
    end: int


def split_words(text: str) -> list[Word]:
    """Cuts a text into words and signs, as BERT's tokenizer does first."""
    words: list[Word] = []
    joined = False
    for found in _UNIT.finditer(text):
        mark = unicodedata.category(found[0][0]) in _MARKS
        goes_on = mark or (joined and found[0][0].isalnum())
        if words and words[-1].end == found.start() and goes_on:
            start = words.pop().start
            words.append(Word(text[start : found.end()], start, found.end()))
        else:
            words.append(Word(found[0], *found.span()))
        joined = mark
    return words


class Units:
    """The pieces of the units of some texts, each unit encoded once."""

    def __init__(self, tokenizer: Tokenizer, units: Iterable[str]) -> None:
        """Encodes units as they are written, those after a space with one space before them."""
        distinct = list(dict.fromkeys(units))
        found = tokenizer.encode_batch(distinct, threads=16)
        self._tokenizer = tokenizer
        self._ids = {unit: ids.tolist() for unit, ids in zip(distinct, found, strict=True)}
        self._ends: dict[str, list[int]] = {}

    def ids(self, unit: str) -> list[int]:
        """Returns the ids of a unit, maybe none."""
        return self._ids[unit]

    def pieces(self, text: str) -> list[Piece]:
        """Returns the pieces of a text all of whose units are known."""
        return [
            Piece(id, start, end)
            for unit, word in written_units(text)
            for id, start, end in self._locate(unit, word)
        ]

    def _locate(self, unit: str, word: Word) -> Iterator[tuple[int, int, int]]:
        """Yields the ids of a unit's pieces with the characters that they take."""
        ends = self._ends.get(unit)
        if ends is None:
            ends = self._ends[unit] = self._find_ends(self._ids[unit], word.text)
        start = word.start
        for number, id in enumerate(self._ids[unit]):
            # Pieces whose characters cannot be told apart share theirs.
            end = word.start + next(end for end in ends[number:] if end)
            yield id, start, end
            if ends[number]:
                start = end

    def _find_ends(self, ids: list[int], word: str) -> list[int]:
        """Returns how many characters of a word its pieces up to each one have; 0 if that cannot be told."""
        ends = []
        for count in range(1, len(ids)):
            begun = "".join(self._tokenizer.decode(ids[:count]).split())
            same = begun and begun.lower() == word[: len(begun)].lower() and len(begun) < len(word)
            ends.append(len(begun) if same else 0)
        return [*ends, len(word)]


def written_units(text: str) -> Iterator[tuple[str, Word]]:
    """Yields the units of a text, as `Units` takes them and as words."""
    for word in split_words(text):
        spaced = word.start > 0 and text[word.start - 1].isspace()
        yield " " * spaced + word.text, word
