"""What Python hands to a trained run, checked: texts, token ids, records and numbers, each told by its name."""

import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, SupportsIndex

from gpt1_jax.errors import UserError

_SHOWN = 60  # characters of a value in a message


def check_text(value: object, name: str) -> str:
    """The value, a text that UTF-8 can write.

    Raises:
        UserError: it is none.
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
    """A path as a str.

    Raises:
        UserError: the value is neither a str nor a pathlib.Path, or no file can have the name.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(path := os.fspath(value), str):
        raise UserError(f"{name}={shown(value)} is not a path; give a str or a pathlib.Path.")
    if "\0" in path:
        raise UserError(f"{name}={shown(path)} has a zero character, which no path has; name another.")
    return path


def check_several(value: object, name: str, expected: str) -> list[Any]:
    """The members of a list, a tuple, an array or an iterator.

    Raises:
        UserError: it is something else: a text, bytes, a dictionary, a set or no collection.
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | Mapping | Set):
        try:
            return list(value)
        except TypeError:  # an array without dimensions
            pass
    raise UserError(f"{name}={shown(value)} is not {expected}; give a list.")


def check_ids(value: object, name: str, vocab_size: int) -> list[int]:
    """Token ids as Python's integers, in which JSON can write them.

    Raises:
        UserError: the value holds no ids, or one outside the tokenizer's pieces.
    """
    expected = f"a list of ids from 0 to {vocab_size - 1}"
    ids = []
    for member in check_several(value, name, expected):
        id = _integer(member)
        if id is None or not 0 <= id < vocab_size:
            raise UserError(f"{name} holds {shown(member)}, expected {expected}; encode a text to get such.")
        ids.append(id)
    return ids


def check_records(value: object, name: str) -> list[Mapping[str, Any]]:
    """A list of dictionaries.

    Raises:
        UserError: it is something else.
    """
    records = check_several(value, name, "a list of dictionaries")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Mapping):
            raise UserError(
                f'{name} has {shown(record)} in place {number}, expected a dictionary such as {{"text": "…"}}; '
                "give a list of these."
            )
    return records


def check_integer(value: object, name: str) -> int:
    """A whole number as Python's int.

    Raises:
        UserError: the value is none.
    """
    integer = _integer(value)
    if integer is None:
        raise UserError(f"{name}={shown(value)} is not a whole number; give one, such as 5.")
    return integer


def check_number(value: object, name: str) -> float:
    """A number as Python's float; one beyond float64 is infinite.

    Raises:
        UserError: the value is none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise UserError(f"{name}={shown(value)} is not a number; give one, such as 0.5.")
    try:
        return float(value)
    except OverflowError:
        return math.inf if operator.gt(value, 0) else -math.inf


def check_function(value: object, name: str) -> Callable[..., Any] | None:
    """A function or None.

    Raises:
        UserError: the value is something else.
    """
    if value is not None and not callable(value):
        raise UserError(f"{name}={shown(value)} is not a function; leave it out or give one.")
    return value


def shown(value: object) -> str:
    """A value as messages show it: Python's spelling of it, cut to a line of sane length."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # integers of more digits than Python writes
        return f"a very long {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _integer(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
