"""What a label is: how it is spelled, when it is missing, which class it names, which score it is."""

import math
import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Any

MOST_CLASSES = 10_000
_NOT_KNOWN = "-1"  # how TFDS, Hugging Face's sets and others fill the column of a test part
_BOOLEANS = {"true": "1", "false": "0"}


def spell_label(value: Any, typed: bool = True) -> str | None:
    """A label as text, spelled as its file has it; None where it is missing: null, only spaces, or NaN.

    Args:
        value: a label.
        typed: a text is a text, as JSON quotes it, so that a class may be named "nan". In a table all cells are text,
            and writers leave `nan` in it for a number that is missing.

    Raises:
        ValueError: one clause; a list, an object, an infinity, or half of a surrogate pair.
    """
    if value is None:
        return None
    if not isinstance(value, str | int | float) or value in (math.inf, -math.inf):
        raise ValueError(f"is {value!r:.80}, expected a text or a number")
    text = str(value).strip()
    text.encode()  # JSON can spell half of a surrogate pair, which no file can hold
    number = isinstance(value, float) or not typed
    return None if not text or (number and text.lower() in ("nan", "+nan", "-nan")) else text


def distinct_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """The classes that some labels name, sorted, each by the shortest of its spellings.

    A whole number is one class with and without ".0" and as 1e+20, `true` in any case is one, so are texts of one
    normal form (NFC), and where labels are nothing but 1, 0, true and false, true is 1 and false is 0.
    """
    names: dict[str, str] = {}
    distinct = sorted(set(labels), key=lambda text: (len(text), text))
    for text, key in zip(distinct, _class_keys(distinct), strict=True):
        names.setdefault(key, text)
    return tuple(sorted(names.values()))


def find_class(label: str, classes: tuple[str, ...]) -> int:
    """The number of the class that a label names, in any of its spellings.

    Raises:
        ValueError: one clause; there is no such class.
    """
    numbers = _class_numbers(classes)
    number = numbers[label] if label in numbers else numbers.get(_class_key(label))
    if number is None:
        raise ValueError(f"is {label!r:.80}, expected one of {', '.join(map(repr, classes)):.200}")
    return number


def find_choice(label: str, choices: tuple[str, ...]) -> int:
    """The number of the choice that a label means, by its number from 0 or by its text.

    Raises:
        ValueError: one clause; there is no such choice, or the label means two of them.
    """
    number = _class_key(label)
    named = [index for index, choice in enumerate(choices) if choice == label]
    if number in map(str, range(len(choices))):
        if named and named[0] != int(number):
            raise ValueError(f"is {label!r}, the number of one choice and the text of another")
        return int(number)
    if len(named) > 1:
        raise ValueError(f"is {label!r:.80}, the text of {len(named)} choices; give the number of one")
    if not named:
        raise ValueError(f"is {label!r:.80}, expected one of {', '.join(map(repr, choices)):.200}")
    return named[0]


def find_score(label: str) -> float:
    """A label as a score, NaN where it is none that float32 holds."""
    try:
        score = float(label)
    except ValueError:
        return math.nan
    return score if abs(score) < 3e38 else math.nan


def are_scores(labels: list[str]) -> bool:
    """Whether labels are scores and no classes: most are numbers, of which one has a fraction.

    A decimal comma counts here, so that such a score is refused by its row and becomes no class.
    """
    points = [re.sub(r"^([+-]?\d+),(\d+)$", r"\1.\2", label) for label in labels]
    scores = [score for label in points if math.isfinite(score := find_score(label))]
    return 2 * len(scores) > len(labels) and any(score % 1 for score in scores)


def is_not_known(label: str) -> bool:
    """Whether a label of a test part that names no class and no score says that it is not known."""
    return _class_key(label) == _NOT_KNOWN


def check_class_name(label: str) -> None:
    """Refuses what predictions/*.tsv cannot hold; raises ValueError, one clause."""
    if "\t" in label or len(label.splitlines()) > 1:
        raise ValueError(f"is {label!r:.80}, expected a label without TAB and line break")


def _class_key(label: str) -> str:
    """What the spellings of a class have in common; é is one character or two, as systems write it."""
    label = unicodedata.normalize("NFC", label)
    if label.lower() in _BOOLEANS:
        return label.lower()
    if re.fullmatch(r"-?[1-9](\.[0-9]+)?e\+[0-9]{2,3}", label):  # as Python and pandas write large numbers
        label = f"{Decimal(label):f}"
    whole = re.fullmatch(r"(-?)(0|[1-9][0-9]*)(?:\.0+)?", label)
    if whole is None:
        return label
    return whole[2] if whole[2] == "0" else whole[1] + whole[2]


def _class_keys(labels: Iterable[str]) -> list[str]:
    """The key of each label: of a set of nothing but 1, 0, true and false the digits."""
    keys = [_class_key(label) for label in labels]
    digits = [_BOOLEANS.get(key, key) for key in keys]
    return digits if set(digits) <= set(_BOOLEANS.values()) else keys


@lru_cache(maxsize=16)
def _class_numbers(classes: tuple[str, ...]) -> dict[str, int]:
    """The numbers of the classes by their keys and names.

    The names come last, since an earlier version counted "1" and "1.0" as two classes.
    """
    keys = _class_keys(classes)
    numbers = {key: number for number, key in enumerate(keys)}
    if set(keys) <= set(_BOOLEANS.values()):
        numbers |= {word: numbers[digit] for word, digit in _BOOLEANS.items() if digit in numbers}
    return numbers | {name: number for number, name in enumerate(classes)}
