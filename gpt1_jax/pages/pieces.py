"""How pieces of a text are shown, so that all of them can be seen and none changes what stands beside it."""

import unicodedata
from html import escape

_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}
_GOES_ON = "⋯"
# Without these, emoji and Persian words fall apart.
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"


def show_piece(piece: str, spaces: bool = True) -> str:
    """Returns a piece as HTML that keeps its direction of writing to itself."""
    return f"<bdi>{escape(label_piece(piece, spaces))}</bdi>"


def label_piece(piece: str, spaces: bool = True) -> str:
    """Returns a piece so that all of it can be seen, its spaces only if that is asked for."""
    if not piece:
        return _GOES_ON
    seen = piece.strip() != ""
    return "".join(
        _SIGNS[character]
        if character in _SIGNS and (character != " " or spaces or not seen)
        else character
        if character.isprintable() or (seen and character in _JOINERS)
        else f"⟨U+{ord(character):04X}⟩"
        for character in piece
    )


def find_direction(text: str) -> str:
    """Returns the direction in which a text is written, by its first letter."""
    kinds = (unicodedata.bidirectional(character) for character in text)
    return "rtl" if next((kind for kind in kinds if kind in ("L", "R", "AL")), "L") != "L" else "ltr"
