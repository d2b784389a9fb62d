"""What a label is: how it is spelled, when it is missing, and which class or score it stands for."""

import json
import math
import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache

from gpt1_jax.wording import counted

MOST_CLASSES = 10_000
# TFDS, Hugging Face's sets and others fill the label column of a test part with this.
_NOT_KNOWN = "-1"
_BOOLEANS = {"true": "1", "false": "0"}


def spell_label(value: object, typed: bool = True) -> str | None:
    """Returns a label as text, spelled as in its file, or None if it is missing: null, only spaces, or NaN.

    Args:
        value: the label.
        typed: whether the file tells text from numbers, as JSON does by its quotes, so that a class may be named
            "nan". In a table every cell is text, and writers leave `nan` for a missing number.

    Raises:
        ValueError: the label is a list, an object, an infinity, or half of a surrogate pair; the message is one clause.
    """
    if value is None:
        return None
    if not isinstance(value, str | int | float) or value in (math.inf, -math.inf):
        raise ValueError(f"is {spell_json(value)}, expected a text or a number")
    text = str(value).strip()
    # JSON can spell half of a surrogate pair, which no file can hold; encoding it raises a ValueError.
    text.encode()
    number = isinstance(value, float) or not typed
    return None if not text or (number and text.lower() in ("nan", "+nan", "-nan")) else text


def spell_json(value: object) -> str:
    """A value of a record as its file has it, null and not None, cut to the length that an error shows.

    Python's own records may hold what JSON cannot spell.
    """
    try:
        return json.dumps(value, ensure_ascii=False)[:80]
    except (TypeError, ValueError, RecursionError):
        return f"{value!r:.80}"


def distinct_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the classes that some labels name, sorted, each in the shortest of its spellings.

    A whole number is the same class with and without ".0" and as 1e+20, `true` is the same in any case, and so are
    texts with the same normal form (NFC). If all labels are 1, 0, true or false, true is 1 and false is 0.
    """
    names: dict[str, str] = {}
    distinct = sorted(set(labels), key=lambda text: (len(text), text))
    for text, key in zip(distinct, _class_keys(distinct), strict=True):
        names.setdefault(key, text)
    return tuple(sorted(names.values()))


def find_class(label: str, classes: tuple[str, ...]) -> int:
    """Returns the number of the class that a label names, in any of its spellings.

    Raises:
        ValueError: there is no such class; the message is one clause.
    """
    numbers = _class_numbers(classes)
    number = numbers[label] if label in numbers else numbers.get(_class_key(label))
    if number is None:
        raise ValueError(f"is {label!r:.80}, expected one of {', '.join(map(repr, classes)):.200}")
    return number


def find_choice(label: str, choices: tuple[str, ...]) -> int:
    """Returns the number of the choice that a label means, by its number from 0 or by its text.

    Raises:
        ValueError: there is no such choice, or the label means two of them; the message is one clause.
    """
    number = _class_key(label)
    named = [index for index, choice in enumerate(choices) if choice == label]
    if number in map(str, range(len(choices))):
        if named and named[0] != int(number):
            raise ValueError(f"is {label!r}, the number of one choice and the text of another")
        return int(number)
    if len(named) > 1:
        raise ValueError(
            f"is {label!r:.80}, the text of {counted(len(named), 'choice')}; give the number of one"
        )
    if not named:
        raise ValueError(f"is {label!r:.80}, expected one of {', '.join(map(repr, choices)):.200}")
    return named[0]


def find_score(label: str) -> float:
    """Returns a label as a score, or NaN if it is not a number that float32 can hold."""
    try:
        score = float(label)
    except ValueError:
        return math.nan
    return score if abs(score) < 3e38 else math.nan


def are_scores(labels: list[str]) -> bool:
    """Returns whether labels are scores and not classes: most are numbers, and at least one has a fraction.

    A decimal comma counts as a point here, so that such a score becomes an error that names its row, not a class.
    """
    points = [re.sub(r"^([+-]?\d+),(\d+)$", r"\1.\2", label) for label in labels]
    scores = [score for label in points if math.isfinite(score := find_score(label))]
    return 2 * len(scores) > len(labels) and any(score % 1 for score in scores)


def is_not_known(label: str) -> bool:
    """Returns whether a test part's label that names no class and no score means that the label is unknown."""
    return _class_key(label) == _NOT_KNOWN


def check_class_name(label: str) -> None:
    """Checks that predictions/*.tsv can hold the name of a class.

    Raises:
        ValueError: it cannot; the message is one clause.
    """
    if "\t" in label or len(label.splitlines()) > 1:
        raise ValueError(f"is {label!r:.80}, expected a label without TAB and line break")


def _class_key(label: str) -> str:
    """Returns what all spellings of a class have in common; systems write é as one character or as two."""
    label = unicodedata.normalize("NFC", label)
    if label.lower() in _BOOLEANS:
        return label.lower()
    # Python and pandas write large numbers this way.
    if re.fullmatch(r"-?[1-9](\.[0-9]+)?e\+[0-9]{2,3}", label):
        label = f"{Decimal(label):f}"
    whole = re.fullmatch(r"(-?)(0|[1-9][0-9]*)(?:\.0+)?", label)
    if whole is None:
        return label
    return whole[2] if whole[2] == "0" else whole[1] + whole[2]


def _class_keys(labels: Iterable[str]) -> list[str]:
    """Returns the key of each label, which is a digit if all labels are 1, 0, true or false."""
    keys = [_class_key(label) for label in labels]
    digits = [_BOOLEANS.get(key, key) for key in keys]
    return digits if set(digits) <= set(_BOOLEANS.values()) else keys


@lru_cache(maxsize=16)
def _class_numbers(classes: tuple[str, ...]) -> dict[str, int]:
    """Returns the number of each class, by its key and by its name.

    Names override keys, since an earlier version counted "1" and "1.0" as two classes.
    """
    keys = _class_keys(classes)
    numbers = {key: number for number, key in enumerate(keys)}
    if set(keys) <= set(_BOOLEANS.values()):
        numbers |= {word: numbers[digit] for word, digit in _BOOLEANS.items() if digit in numbers}
    return numbers | {name: number for number, name in enumerate(classes)}
