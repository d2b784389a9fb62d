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
from gpt1_jax.keys import Key

_ROOT = Path(__file__).parents[1]
_CONFIG_FLAG = "  --config: the config file, :preset behind it; and --config.KEY=VALUE\n"
_MARK = re.compile(r"^{{ (flags|keys) (\w+) }}$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its tables; mkdocs calls this for each."""
    tables = {"flags": describe_flags, "keys": describe_keys}
    return _MARK.sub(lambda mark: tables[mark[1]](mark[2]), markdown)


def describe_flags(command: str) -> str:
    """What `--help` of a command prints, without where its source lies and the config's keys, which have their page."""
    call = [sys.executable, "-m", f"gpt1_jax.{command}", "--help"]
    text = subprocess.run(call, cwd=_ROOT, capture_output=True, text=True, check=True).stdout
    head, _, rest = text.partition("\nflags:\n")
    flags = "\n".join(line for line in rest.splitlines() if line.startswith("  "))
    flags = re.sub(r"^  --config: .*?(?=^  --)", _CONFIG_FLAG, flags, flags=re.MULTILINE | re.DOTALL)
    return f"```\n{head}\n\n{flags}\n```"


def describe_keys(section: str) -> str:
    """The keys of a section of the config with type, default and meaning; "run" are those outside of sections."""
    rows = [
        _row(f"`{key.name}`", _words(key), _default(key), key.help, key.source)
        for key in schema().values()
        if key.name.rpartition(".")[0] == ("" if section == "run" else section)
    ]
    return "\n".join([_row("key", "type", "default", "", "source"), "|---|---|---|---|---|", *rows])


def _words(key: Key) -> str:
    """What a key takes: a type and where it begins, or the values that may be chosen."""
    words = ", ".join(key.choices) or key.kind.__name__
    for limits in key.ranges:
        words += f" ≥ {limits.minimum:g}" + (f", < {limits.below:g}" if limits.below <= 1 else "")
    return f"{words} or None" if key.optional else words


def _default(key: Key) -> str:
    return "" if key.default in (dataclasses.MISSING, None, "") else f"`{key.default}`"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells).replace("\n", " ") + " |"
