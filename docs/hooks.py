"""What mkdocs puts into the reference pages: the flags of each command and the keys of the config.

A line `{{ flags generate }}` of a page becomes that command's help, `{{ keys model }}` the table of a section's keys.
"""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpt1_jax.config import schema
from gpt1_jax.help import describe_values
from gpt1_jax.keys import Key

_ROOT = Path(__file__).parents[1]
_MARK = re.compile(r"^{{ (flags|keys) (\w+) }}$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its tables; mkdocs calls this for each."""
    tables = {"flags": describe_flags, "keys": describe_keys}
    return _MARK.sub(lambda mark: tables[mark[1]](mark[2]), markdown)


def describe_flags(command: str) -> str:
    """What `--help` of a command prints, without the config's keys and what follows them, which have their page."""
    call = [sys.executable, "-m", f"gpt1_jax.{command}", "--help"]
    text = subprocess.run(call, cwd=_ROOT, capture_output=True, text=True, check=True).stdout
    return f"```\n{text.partition('Keys of the config')[0].strip()}\n```"


def describe_keys(section: str) -> str:
    """The keys of a section of the config with type, default and meaning; "run" are those outside of sections."""
    rows = [
        _row(f"`{key.name}`", describe_values(key), _default(key), key.help, key.source)
        for key in schema().values()
        if key.name.rpartition(".")[0] == ("" if section == "run" else section)
    ]
    return "\n".join([_row("key", "type", "default", "", "source"), "|---|---|---|---|---|", *rows])


def _default(key: Key) -> str:
    return "" if key.default in (dataclasses.MISSING, None, "") else f"`{key.default}`"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells).replace("\n", " ") + " |"
