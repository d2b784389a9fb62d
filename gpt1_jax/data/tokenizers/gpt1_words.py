"""From text to ids as GPT-1's authors did it: ftfy, spaced punctuation, spaCy's words, lower case, BPE.

Applied step by step to a whole text, this takes a core about a second per megabyte, nearly all of it for words met
before. Here each stretch between two spaces is encoded once and remembered, unless its neighbours can change its ids.
"""

import io
import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from gpt1_jax.errors import UserError

_PART_CHARACTERS = 2**18
# Beyond this many entries the memory is cleared, which also bounds the strings that spaCy keeps.
_MEMO_ENTRIES = 2**18

# In lines without these characters, ftfy only straightens quotes. The others are ASCII without control characters
# and without the "&" of HTML entities, and signs that look wrongly decoded only beside certain characters.
_WORK_FOR_FTFY = re.compile(r"[^\t\n\f -%'-~–—―‘’“”…]")

_STANDARD_SIGNS = str.maketrans(
    {"–": "-", "—": "-", "―": "-", "´": "'", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "..."}
)
# The authors meant to include "\" but got its escape wrong.
_PUNCTUATION = re.compile(r'([-~!";?+,)(/*\[\]}{|_])\1*')


def cut(text: str) -> Iterator[tuple[str, bool]]:
    """Cuts a text after line breaks, where that changes no id; yields each part and whether a "<" comes before it."""
    markup = text.find("<") if "<" in text else len(text)
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PART_CHARACTERS) + 1 or len(text)
        yield text[start:end], markup < start
        start = end


class Words:
    """Encodes the parts of a text and remembers the words it has met."""

    def __init__(self, ids: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
        """Takes the ids of pieces, and the merges in order of priority.

        Raises:
            UserError: ftfy or spaCy is not installed.
        """
        try:
            import ftfy
            import spacy
        except ImportError as error:
            raise UserError(
                "The tokenizer openai:DIR splits text with ftfy and spaCy as GPT-1's authors did, and one of them "
                f"cannot be imported ({error}); pip install 'gpt1_jax[original]'."
            ) from error
        self._fix_text = ftfy.fix_text
        self._english: Any = spacy.blank("en").tokenizer
        self._meeting = _find_meeting_tokens(self._english)
        self._opening = {first for _, first in self._meeting}
        self._closing = {last for last, _ in self._meeting}
        self._ids, self._merges = ids, merges
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}
        self._line_break = self._look_up(["\n</w>"])
        self._forget()

    def encode(self, part: str, after_markup: bool) -> bytes:
        """Returns the ids of a part made by `cut`, as bytes of int32."""
        if len(self._chunks) > _MEMO_ENTRIES:
            self._forget()
        lines = self._fix(part, after_markup).split("\n")
        return self._line_break.join(filter(None, map(self._encode_line, lines)))

    def join(self, parts: Iterable[bytes]) -> np.ndarray:
        """Returns the ids of a text, int32 [N], from those of its parts."""
        return np.frombuffer(bytearray(self._line_break.join(filter(None, parts))), np.int32)

    def _forget(self) -> None:
        self._tokenizer = _copy(self._english, self._english.rules)
        # The keys are what stands between two spaces in the text.
        self._chunks = _Memo(self._learn)
        # For chunks whose first token is in _opening, that token; below, the same for the last token and _closing.
        self._chunks_opening: dict[str, str] = {}
        self._chunks_closing: dict[str, str] = {}
        self._word = lru_cache(_MEMO_ENTRIES)(self._make_word)
        self._token = lru_cache(_MEMO_ENTRIES)(self._merge)

    def _fix(self, part: str, after_markup: bool) -> str:
        """Returns the part as ftfy would fix it line by line, except that some quotes may stay curly."""
        if not _WORK_FOR_FTFY.search(part):
            return part
        lines = []
        for line in io.StringIO(part, newline="\n"):
            following_markup = after_markup or "<" in line
            # From the first "<" on, ftfy takes entities for deliberate HTML.
            if _WORK_FOR_FTFY.search(line):
                line = self._fix_text(line, unescape_html=False if after_markup else "auto")
            lines.append(line)
            after_markup = following_markup
        return "".join(lines)

    def _encode_line(self, line: str) -> bytes:
        chunks = line.split()
        ids = b"".join(map(self._chunks.__getitem__, chunks))
        opening, closing = self._chunks_opening, self._chunks_closing
        if not opening.keys().isdisjoint(chunks) and any(
            (closing.get(a), opening[b]) in self._meeting for a, b in pairwise(chunks) if b in opening
        ):
            return self._encode_exactly(line).ids
        return ids

    def _learn(self, chunk: str) -> bytes:
        ids, first, last = self._encode_exactly(chunk)
        if first in self._opening:
            self._chunks_opening[chunk] = first
        if last in self._closing:
            self._chunks_closing[chunk] = last
        return ids

    def _encode_exactly(self, text: str) -> "_Word":
        """Encodes a line or a piece of it word by word, or as a whole where spaCy might see neighbours differently."""
        spaced = _PUNCTUATION.sub(r" \g<0> ", text.translate(_STANDARD_SIGNS)).split()
        words = [self._word(word) for word in spaced]
        if any((a.last, b.first) in self._meeting for a, b in pairwise(words)):
            return self._make_word(" ".join(spaced))
        return _Word(b"".join(word.ids for word in words), words[0].first, words[-1].last)

    def _make_word(self, text: str) -> "_Word":
        # spaCy takes a word of plain letters apart only if it is one of its special cases.
        plain = text.isascii() and text.isalpha() and text not in self._english.rules
        tokens = [text] if plain else [token.text for token in self._tokenizer(text)]
        return _Word(b"".join(self._token(token.lower()) for token in tokens), tokens[0], tokens[-1])

    def _merge(self, token: str) -> bytes:
        """Applies byte-pair encoding: again and again, the merge of highest priority is made wherever it applies."""
        pieces = [*token[:-1], token[-1] + "</w>"]
        known, never = self._ranks, len(self._ranks)
        # Of each piece and the next.
        ranks = [known.get(pair, never) for pair in pairwise(pieces)]
        while (best := min(ranks, default=never)) != never:
            at, merged = 0, "".join(self._merges[best])
            while best in ranks[at:]:
                at = ranks.index(best, at)
                pieces[at : at + 2] = [merged]
                del ranks[at]
                # Only the neighbours of what was merged have other ranks now.
                if at:
                    ranks[at - 1] = known.get((pieces[at - 1], merged), never)
                if at < len(ranks):
                    ranks[at] = known.get((merged, pieces[at + 1]), never)
        return self._look_up(pieces)

    def _look_up(self, pieces: Iterable[str]) -> bytes:
        return array("i", [self._ids.get(piece, 0) for piece in pieces]).tobytes()


class _Word(NamedTuple):
    """What stands between two spaces once punctuation is spaced, with its first and its last token."""

    ids: bytes
    first: str
    last: str


class _Memo(dict[str, bytes]):
    """Remembers a function's value for each key."""

    def __init__(self, function: Callable[[str], bytes]) -> None:
        self._function = function

    def __missing__(self, key: str) -> bytes:
        value = self[key] = self._function(key)
        return value


def _find_meeting_tokens(tokenizer: Any) -> set[tuple[str, str]]:
    """Returns pairs (last token of a word, first token of the next) beside which spaCy might split words differently.

    spaCy searches the tokens of the whole text once more for its special cases ("'em", "a.m.", ":D"). A match across
    a space changes nothing itself, but it hides shorter matches that overlap it.
    """
    plain = _copy(tokenizer, rules={})
    pairs: set[tuple[str, str]] = set()
    firsts, lasts = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for case in tokenizer.rules:
        tokens = [token.text for token in plain(case)]
        # These tokens replace the others where the case is found.
        shown = [token.text for token in tokenizer(case)]
        pairs.update(pairwise(tokens))
        firsts[tokens[0]].add(shown[0])
        lasts[tokens[-1]].add(shown[-1])
    return {(last, first) for a, b in pairs for last in lasts[a] | {a} for first in firsts[b] | {b}}


def _copy(tokenizer: Any, rules: dict[str, Any]) -> Any:
    """Returns a tokenizer with these special cases and a vocabulary of its own that derives nothing from words."""
    from spacy.vocab import Vocab

    return type(tokenizer)(
        Vocab(),
        rules,
        tokenizer.prefix_search,
        tokenizer.suffix_search,
        tokenizer.infix_finditer,
        tokenizer.token_match,
        tokenizer.url_match,
    )
