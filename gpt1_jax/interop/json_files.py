"""JSON files of other programs, read with suspicion, and their values as errors show them."""

import json
from pathlib import Path
from typing import Any, TypeGuard

from gpt1_jax.errors import UserError

_SHOWN = 60
# A larger file does not describe a model.
_JSON_BYTES = 64 * 2**20


def is_size(value: object) -> TypeGuard[int]:
    """Returns whether a value from a file can be the length of an axis."""
    return type(value) is int and 0 < value < 2**31


def shown(value: object) -> str:
    """Returns a value from a file as an error shows it: on one line, and cut if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        # This also excludes a pipe, which might never end.
        if not path.is_file():
            raise UserError(f"{path} is missing; name a directory that has it.")
        if path.stat().st_size > _JSON_BYTES:
            raise ValueError(f"it has more than {_JSON_BYTES:,} bytes")
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); restore it from where it came.") from error
