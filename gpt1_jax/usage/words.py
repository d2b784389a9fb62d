"""Finds the words of a text, and which pieces spell each.

A word is what lies between white space. A tokenizer may have changed case, accents, spaces or more, so its pieces are
laid along the text by the characters that both show.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache, partial
from itertools import pairwise
from typing import NamedTuple

from gpt1_jax.data.tokenizers.opening import Tokenizer

# Where text and pieces differ, they go on together at the nearest place where this many characters agree again, if
# it is no further than so many characters.
_AGREEING = 3
_FURTHEST = 40
# A character of UTF-8 has at most so many bytes, and thus pieces.
_MOST_PIECES = 4
# Stands for part of a character, and for what a tokenizer does not know.
_SOMETHING = "\N{REPLACEMENT CHARACTER}"
_UNKNOWN = ("<unk>", "[UNK]")
# So many pieces are spelled once.
_REMEMBERED = 2**16


class WordPieces(NamedTuple):
    """A word of a text.

    Attributes:
        start, end: its first character's place in the text, and that behind its last.
        first, last: the first of its pieces, and the one behind its last.
    """

    start: int
    end: int
    first: int
    last: int


def find_words(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> list[WordPieces]:
    """Returns the words of a text with the pieces of each.

    A piece belongs to the word of its first character that is not white space, even if it goes on into the next word.
    White space that is a piece of its own belongs to the word that follows, and at the end of a text to the last one.
    Thus every piece belongs to one word.

    Args:
        tokenizer: made the ids.
        text: the text.
        ids: all of its ids.
    """
    spans = [(found.start(), found.end()) for found in re.finditer(r"\S+", text)]
    if not spans:
        return []
    firsts, word = [0], 0
    for piece, place in enumerate(_place_pieces(tokenizer, text, ids)):
        while word + 1 < len(spans) and place >= spans[word + 1][0]:
            word += 1
            firsts.append(piece)
    firsts += [len(ids)] * (len(spans) + 1 - len(firsts))
    return [WordPieces(*span, *pieces) for span, pieces in zip(spans, pairwise(firsts), strict=True)]


def _place_pieces(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> list[int]:
    """Returns the place in the text of the first visible character of each piece, or of a later one if it has none."""
    shown, places = _visible(text)
    pieces = [
        None if part is None else _SOMETHING if part.strip() in _UNKNOWN else _shown(part)
        for part in spell(tokenizer, ids)
    ]
    matched = _align("".join(filter(None, pieces)), shown)
    found, begin = [], 0
    for piece in pieces:
        if piece is None:
            found.append(found[-1])
            continue
        at = matched[begin] if begin < len(matched) else len(places)
        found.append(places[at] if at < len(places) else len(text))
        begin += len(piece)
    return found


def spell(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[str | None]:
    """Yields the text of each piece; where several spell a character, the first yields it, and the others None."""
    decode = partial(_decode, tokenizer)
    start = 0
    while start < len(ids):
        stop = start + 1
        last = min(start + _MOST_PIECES, len(ids))
        while stop < last and decode(*ids[start:stop]).endswith(_SOMETHING):
            stop += 1
        yield decode(*ids[start:stop])
        yield from [None] * (stop - start - 1)
        start = stop


@lru_cache(_REMEMBERED)
def _decode(tokenizer: Tokenizer, *ids: int) -> str:
    return tokenizer.decode(ids)


def _visible(text: str) -> tuple[str, list[int]]:
    """Returns the characters of a text without white space, case and accents, and the place of each in the text."""
    characters, places = [], []
    for place, character in enumerate(text):
        plain = _plain(character)
        characters.append(plain)
        places += [place] * len(plain)
    return "".join(characters), places


@lru_cache(_REMEMBERED)
def _shown(piece: str) -> str:
    """Returns the characters of a piece that `_visible` returns."""
    return "".join(map(_plain, piece))


@cache
def _plain(character: str) -> str:
    """Returns a character without case and accents, or nothing for white space."""
    parts = unicodedata.normalize("NFKD", character.lower())
    return "".join(part for part in parts if not (part.isspace() or unicodedata.combining(part)))


def _align(ours: str, theirs: str) -> list[int]:
    """Returns for each character of `ours` the index of the one of `theirs` that it stands beside."""
    if ours == theirs:
        return [*range(len(ours))]
    found: list[int] = []
    other = 0
    while len(found) < len(ours):
        skipped, passed = _meet(ours, theirs, len(found), other)
        found += [other + min(step, passed) for step in range(skipped)] + [other + passed]
        other += passed + 1
    return found


def _meet(ours: str, theirs: str, here: int, there: int) -> tuple[int, int]:
    """Returns how far to go in both texts to where they agree again; nowhere if they do, or do nowhere near."""
    if ours[here] in (_SOMETHING, *theirs[there : there + 1]):
        return 0, 0
    for distance in range(1, _FURTHEST):
        for skipped in range(distance + 1):
            passed = distance - skipped
            ahead = ours[here + skipped : here + skipped + _AGREEING]
            if ahead and ahead == theirs[there + passed : there + passed + _AGREEING]:
                return skipped, passed
    return 0, 0
