"""The page of an explained text, to be looked through by mouse, finger or keys; without scripts it still tells most.

Letters: T tokens, L layers, H heads.
"""

import base64
import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from gpt1_jax.pages.comparison import compare
from gpt1_jax.pages.document import make_document
from gpt1_jax.pages.explained import Guesses, Reading
from gpt1_jax.pages.pieces import find_direction, label_piece, show_piece
from gpt1_jax.wording import counted

# Surprisal from which on a color is the darkest.
_MOST_BITS = 15


def make_explorer(text: str, readings: Sequence[Reading]) -> str:
    """Returns the HTML of what one model makes of a text, or two models beside each other."""
    names = _names(readings)
    title = f"{_shortened(text, 40)} · {' and '.join(names)}"
    parts = [f'<header><h1 dir="auto">{escape(_shortened(text, 120))}</h1></header><main>']
    if len(readings) == 2:
        parts.append(compare(text, readings, names))
    parts += [_reading(text, reading, name) for reading, name in zip(readings, names, strict=True)]
    return make_document(title, f"{''.join(parts)}</main>", ("style.css", "explorer.css"), "explorer.js")


def _names(readings: Sequence[Reading]) -> list[str]:
    """Returns short names of the runs that are all different, unless one is read twice."""
    whole = [reading.run for reading in readings]
    short = [name.rstrip("/").rpartition("/")[2] for name in whole]
    # The last is one run at two steps.
    steps = [f"{name}, step {reading.step:,}" for name, reading in zip(short, readings, strict=True)]
    return next((names for names in (short, whole) if len({*names}) == len(names)), steps)


# ── One model ────────────────────────────────────────────────────────────────────────────────────────────────

_JOURNEY = (
    "What the states behind each layer would predict (0: the embeddings), and which probability they give to the piece "
    "that is there"
)
_NO_SCRIPTS = "Without scripts the page has the predictions of one place, and no attention."


def _reading(text: str, reading: Reading, name: str) -> str:
    start = _start(reading)
    where = "Behind" if reading.causal else "In the place of"
    return (
        f'<section class="reading"><h2>{escape(name)}</h2><p class="soft">{escape(_about(reading))}</p>'
        f'<h3>Surprisal</h3><p class="soft">0 bits <span class="ramp"></span> {_MOST_BITS} bits or more</p>'
        f'<p class="flow surprisal" dir="{find_direction(text)}">{_flow(reading)}</p>'
        '<h3>Predictions</h3><div class="grid"><figure class="next"><figcaption aria-live="polite">'
        f"{where} “{show_piece(reading.pieces[start])}”</figcaption>"
        f'<ol class="bars">{_bars(reading, start)}</ol></figure><figure class="journey" hidden><figcaption>{_JOURNEY}'
        "</figcaption><table><tbody></tbody></table></figure></div>"
        f"<noscript><p>{_NO_SCRIPTS}</p></noscript>"
        '<div class="attention" hidden><h3>Attention</h3></div>'
        f"<h3>Through the layers</h3>{_lens(reading)}"
        f'<script type="application/json" class="data">{_data(reading, start)}</script></section>'
    )


def _about(reading: Reading) -> str:
    known = [x for x in reading.bits if x is not None]
    said = [f"{reading.run}, step {reading.step:,}."]
    if reading.tokens > len(reading.ids):
        said.append(
            f"The text has {counted(reading.tokens, 'token')}, and the page shows the first {len(reading.ids):,} of "
            f"them."
        )
    if known and reading.causal:
        said.append(
            f"Surprisal of {counted(len(known), 'token')}: {math.fsum(known):.1f} bits, each after those before it."
        )
    elif known:
        said.append(
            f"Surprisal of {counted(len(known), 'token')}: {math.fsum(known):.1f} bits, each where it alone is hidden; "
            "their sum is that of no probability of the text."
        )
    return " ".join(said)


def _start(reading: Reading) -> int:
    """Returns the place that is looked at first: the last, or the first blank, or the first that is predicted."""
    if reading.causal:
        return len(reading.ids) - 1
    predicted = [at for at, guesses in enumerate(reading.guesses) if guesses]
    return next((at for at in predicted if reading.bits[at] is None), predicted[0] if predicted else 0)


def _flow(reading: Reading) -> str:
    """Returns the tokens as buttons whose color is their surprisal."""
    parts = []
    for piece, bits in zip(reading.pieces, reading.bits, strict=True):
        told = "" if bits is None else f"{bits:.2f} bits"
        heat = min(1, (bits or 0) / _MOST_BITS)
        parts.append(
            f'<button type="button" style="--heat:{heat:.2f}" title="{told}">{show_piece(piece, spaces=False)}</button>'
            + "<br>" * piece.endswith("\n")
        )
    return "".join(parts)


def _bars(reading: Reading, place: int) -> str:
    return "".join(
        f'<li><span class="name">{show_piece(reading.names[id])}</span>'
        f'<span class="bar" style="--share:{chance:.4f}"></span><span class="percent">{_percent(chance)}</span></li>'
        for id, chance in reading.guesses[place]
    )


def _lens(reading: Reading) -> str:
    """Returns the table of the most probable piece at each layer, a row each, and token."""

    def cell(guesses: Guesses) -> str:
        id, chance = guesses[0]
        told = "&#10;".join(f"{escape(label_piece(reading.names[id]))} {_percent(x)}" for id, x in guesses)
        shown = show_piece(reading.names[id])
        return f'<td style="--heat:{math.sqrt(chance):.2f}" title="{told}">{shown}</td>'

    head = "".join(f'<th scope="col">{show_piece(piece)}</th>' for piece in reading.pieces)
    rows = [
        f'<tr><th scope="row">{f"layer {number}" if number else "embeddings"}</th>{"".join(map(cell, layer))}</tr>'
        for number, layer in enumerate(reading.lens)
    ]
    return (
        f'<div class="wide"><table class="lens"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _percent(chance: float) -> str:
    return f"{100 * chance:.0f} %" if chance >= 0.0995 else f"{100 * chance:.2g} %"


def _data(reading: Reading, start: int) -> str:
    """Returns what the script reads, as JSON that no text can end."""

    def rounded(values: Sequence[float | None]) -> list[float | None]:
        return [None if value is None else float(f"{value:.3g}") for value in values]

    def pairs(places: Sequence[Guesses]) -> list[list[tuple[int, float]]]:
        return [[(id, float(f"{chance:.3g}")) for id, chance in guesses] for guesses in places]

    data: dict[str, Any] = {
        "start": start,
        "causal": reading.causal,
        "ids": [*reading.ids],
        "pieces": [*map(label_piece, reading.pieces)],
        "names": {id: label_piece(name) for id, name in reading.names.items()},
        "bits": rounded(reading.bits),
        "guesses": pairs(reading.guesses),
        "lens": [*map(pairs, reading.lens)],
        "follows": [*map(rounded, reading.follows)],
        "heads": reading.attention.shape[1],
        "attention": _packed(reading.attention, reading.causal),
    }
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _packed(attention: np.ndarray, causal: bool) -> str:
    """Returns the roots of the weights [L, H, T, T] as bytes; of a causal model only those that may not be 0."""
    length = attention.shape[-1]
    rows, columns = np.tril_indices(length) if causal else np.indices((length, length)).reshape(2, -1)
    roots = np.rint(255 * np.sqrt(attention[:, :, rows, columns])).astype(np.uint8)
    return base64.b64encode(roots.tobytes()).decode()


def _shortened(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[:length] + "…"
