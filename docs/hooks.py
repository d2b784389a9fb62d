"""What mkdocs puts into the reference pages: the flags of each command and the keys of the config.

A line `{{ flags generate }}` of a page becomes that command's help, `{{ keys model }}` the table of a section's keys.
"""

import dataclasses
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from gpt1_jax.config import Config

_ROOT = Path(__file__).parents[1]
_MARK = re.compile(r"^{{ (flags|keys) (\w+) }}$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its tables; mkdocs calls this for each."""
    tables = {"flags": describe_flags, "keys": describe_keys}
    return _MARK.sub(lambda mark: tables[mark[1]](mark[2]), markdown)


def describe_flags(command: str) -> str:
    """What `--help` of a command prints, without where its source lies."""
    call = [sys.executable, "-m", f"gpt1_jax.{command}", "--help"]
    text = subprocess.run(call, cwd=_ROOT, capture_output=True, text=True, check=True).stdout
    head, _, rest = text.partition("\nflags:\n")
    lines = [line for line in rest.splitlines() if line.startswith("  ")]
    return "\n".join(["```", head, "", *lines, "```"])


def describe_keys(section: str) -> str:
    """The keys of a section of the config with type, default and meaning; "run" are those outside of sections."""
    kind, prefix = Config, ""
    if section != "run":
        kind, prefix = _dataclass(typing.get_type_hints(Config)[section]), f"{section}."
    hints = typing.get_type_hints(kind, include_extras=True)
    rows = [
        _row(f"`{prefix}{field.name}`", _words(hints[field.name]), _default(field), *_meaning(field))
        for field in dataclasses.fields(kind)
        if _dataclass(hints[field.name]) is None
    ]
    return "\n".join([_row("key", "type", "default", "", "source"), "|---|---|---|---|---|", *rows])


def _dataclass(hint: Any) -> Any:
    """The dataclass that an annotation names, alone or beside None; None where it names a value."""
    return next((kind for kind in _options(hint) if dataclasses.is_dataclass(kind)), None)


def _options(hint: Any) -> Iterator[Any]:
    is_value = typing.get_origin(hint) in (None, Annotated, typing.Literal)
    yield from [hint] if is_value else typing.get_args(hint)


def _words(hint: Any) -> str:
    """An annotation in words: a type and where it begins, or the values that may be chosen."""
    if typing.get_origin(hint) is Annotated:
        kind, limits = typing.get_args(hint)
        above = f", < {limits.below:g}" if limits.below <= 1 else ""
        return f"{_words(kind)} ≥ {limits.minimum:g}{above}"
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is not None:
        return " or ".join(map(_words, _options(hint)))
    return "None" if hint is type(None) else hint.__name__


def _default(field: dataclasses.Field) -> str:
    return "" if field.default in (dataclasses.MISSING, None, "") else f"`{field.default}`"


def _meaning(field: dataclasses.Field) -> tuple[str, str]:
    return field.metadata.get("help", ""), field.metadata.get("source", "")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells).replace("\n", " ") + " |"
