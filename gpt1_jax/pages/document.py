"""An HTML document that needs nothing beside it, and in which no script runs but one that it names by its hash."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path


def make_document(
    title: str, body: str, styles: Sequence[str] = ("style.css",), script: str | None = None
) -> str:
    """Returns a document.

    Args:
        title: a plain text.
        body: HTML.
        styles: the names of style sheets beside this module.
        script: the name of a script beside this module, which runs when the body has been read.
    """
    program = "" if script is None else read_part(script)
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    allowed = "style-src 'unsafe-inline'" + (f"; script-src 'sha256-{digest}'" if program else "")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; {allowed}">'
        f"<title>{escape(title)}</title><style>{''.join(map(read_part, styles))}</style></head>"
        f"<body>{body}{f'<script>{program}</script>' if program else ''}</body></html>\n"
    )


@cache
def read_part(name: str) -> str:
    """Returns the content of a file beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
