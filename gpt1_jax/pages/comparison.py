"""How probable two models find the same text: the difference at each token, or at each word."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from gpt1_jax.pages.charts import table
from gpt1_jax.pages.explained import Reading
from gpt1_jax.pages.pieces import find_direction, label_piece, show_piece

# From how many bits on a color is the darkest.
_MOST_BITS = 6
_LARGEST = 12


class _Part(NamedTuple):
    """A token or a word, with its surprisal in both models."""

    text: str
    one: float
    other: float

    @property
    def gain(self) -> float:
        """How much the second model gives it above the first, in bits."""
        return self.one - self.other


def compare(text: str, readings: Sequence[Reading], names: Sequence[str]) -> str:
    """Returns the section that compares two models' probabilities of each token, or of each word."""
    same = readings[0].pieces == readings[1].pieces and readings[0].ids == readings[1].ids
    parts = [*(_tokens(readings) if same else _words(text, readings))]
    what = "token" if same else "word"
    if not parts:
        return f"<section><h2>The difference</h2><p>No {what} has a probability in both models.</p></section>"
    first, second = (f"<b>{escape(name)}</b>" for name in names)
    flow = ("" if same else " ").join(map(_show, parts))
    sums = [math.fsum(bits) for bits in zip(*((part.one, part.other) for part in parts), strict=True)]
    largest = sorted(parts, key=lambda part: -abs(part.gain))[:_LARGEST]
    rows = [
        (f"all {len(parts)}", *sums),
        *((label_piece(part.text), part.one, part.other) for part in largest),
    ]
    cells = [[text, f"{one:.2f}", f"{other:.2f}", f"{one - other:+.2f}"] for text, one, other in rows]
    return (
        f'<section><h2>The difference, {what} by {what}</h2><p>Where the text is <span class="word more" '
        f'style="--heat:1">blue</span>, {second} gives the {what} a higher probability than {first}; where it is '
        f'<span class="word less" style="--heat:1">red</span>, a lower one. The darkest are {_MOST_BITS} bits '
        f'or more apart.</p><p class="flow" dir="{find_direction(text)}">{flow}</p>'
        "<h3>The largest differences</h3>"
        + table([what, *(f"{name}, bits" for name in names), "gain, bits"], cells, kind="differences")
        + "</section>"
    )


def _show(part: _Part) -> str:
    heat = min(1, abs(part.gain) / _MOST_BITS)
    told = f"{part.one:.2f} and {part.other:.2f} bits"
    return (
        f'<span class="word {"more" if part.gain > 0 else "less"}" style="--heat:{heat:.2f}" title="{told}">'
        f"{show_piece(part.text, spaces=False)}</span>" + "<br>" * part.text.endswith("\n")
    )


def _tokens(readings: Sequence[Reading]) -> Iterable[_Part]:
    for piece, one, other in zip(readings[0].pieces, *(reading.bits for reading in readings), strict=True):
        if one is not None and other is not None:
            yield _Part(piece, one, other)


def _words(text: str, readings: Sequence[Reading]) -> Iterable[_Part]:
    """Yields the words that both models read whole; other tokenizers cut them otherwise."""
    for word, same in zip(*(reading.words for reading in readings), strict=False):
        if word.bits is not None and same.bits is not None:
            yield _Part(text[word.start : word.end], word.bits, same.bits)
