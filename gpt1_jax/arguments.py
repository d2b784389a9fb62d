"""Checks what Python code passes to a trained run: texts, token ids, records and numbers; errors name the argument."""

import math
import numbers
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, Literal, SupportsIndex

from gpt1_jax.errors import UserError

# What names a checkpoint of a run: that of its best evaluation, the last one, or the one of a step.
Step = int | Literal["best", "last"]
STEP_HELP = (
    "the checkpoint: best, last or a step; by default the best evaluation of a fine-tuned run, else the last"
)

# A message shows this many characters of a value.
_SHOWN = 60


def check_text(value: object, name: str) -> str:
    """Checks that a value is text that UTF-8 can write, and returns it.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, str):
        raise UserError(f"{name}={shown(value)} is not a text; give a str.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name}={shown(value)} is not UTF-8: character {error.start + 1} is half of a pair (a lone surrogate); "
            "convert the text to UTF-8."
        ) from None
    return str(value)


def check_path(value: object, name: str) -> str:
    """Returns a path as a str.

    Raises:
        UserError: the value is neither a str nor a pathlib.Path, or no file can have the name.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(path := os.fspath(value), str):
        raise UserError(f"{name}={shown(value)} is not a path; give a str or a pathlib.Path.")
    if "\0" in path:
        raise UserError(f"{name}={shown(path)} has a zero character, which no path can have; name another.")
    return path


def check_several(value: object, name: str, expected: str) -> list[Any]:
    """Returns the members of a list, a tuple, an array or an iterator.

    Raises:
        UserError: the value is something else, such as text, bytes, a dictionary or a set.
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | Mapping | Set):
        try:
            return list(value)
        # An array without dimensions cannot be iterated.
        except TypeError:
            pass
    raise UserError(f"{name}={shown(value)} is not {expected}; give a list.")


def check_ids(value: object, name: str, vocab_size: int) -> list[int]:
    """Returns token ids as Python's integers, which JSON can write.

    Raises:
        UserError: the value is not a list of ids, or an id lies outside the tokenizer's pieces.
    """
    expected = f"a list of ids from 0 to {vocab_size - 1}"
    ids = []
    for member in check_several(value, name, expected):
        id = _integer(member)
        if id is None or not 0 <= id < vocab_size:
            raise UserError(f"{name} holds {shown(member)}, expected {expected}; encode a text to get them.")
        ids.append(id)
    return ids


def check_integer(value: object, name: str) -> int:
    """Returns a whole number as Python's int.

    Raises:
        UserError: the value is not a whole number.
    """
    integer = _integer(value)
    if integer is None:
        raise UserError(f"{name}={shown(value)} is not a whole number; give one, such as 5.")
    return integer


def check_step(value: object, name: str) -> Step | None:
    """Returns the choice of a checkpoint, for which a flag's text serves too; None leaves it to the run.

    Raises:
        UserError: the value is neither best nor last nor a step.
    """
    if value is None or (isinstance(value, str) and value in ("best", "last")):
        return value
    # A step is a number of at most 10 digits.
    if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value):
        return int(value)
    step = _integer(value)
    if step is None or step < 0:
        raise UserError(f"{name}={shown(value)} is not a checkpoint; give best, last, or a step such as 500.")
    return step


def check_number(value: object, name: str) -> float:
    """Returns a number as Python's float; a number beyond float64 becomes infinite.

    Raises:
        UserError: the value is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise UserError(f"{name}={shown(value)} is not a number; give one, such as 0.5.")
    try:
        return float(value)
    except OverflowError:
        return math.inf if operator.gt(value, 0) else -math.inf


def check_function(value: object, name: str) -> Callable[..., Any] | None:
    """Checks that a value is a function or None, and returns it.

    Raises:
        UserError: it is something else.
    """
    if value is not None and not callable(value):
        raise UserError(f"{name}={shown(value)} is not a function; leave it out or give one.")
    return value


def shown(value: object) -> str:
    """Returns a value as messages show it: as Python spells it, on one line of sane length."""
    try:
        text = " ".join(repr(value).split())
    # Python refuses to write integers with very many digits.
    except ValueError:
        return f"a very long {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _integer(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
