"""Several files of completions in one run, each with a weight: the passes over it in an epoch."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt1_jax.disk.paths import expand_local
from gpt1_jax.errors import UserError
from gpt1_jax.hashing import hash_numbers
from gpt1_jax.tasks.task import Example

_WEIGHTED = re.compile(r"(.+?)(?:\*([0-9]*\.?[0-9]+))?")
_MOST = 1000.0


class Part(NamedTuple):
    """A file or a directory of a mixture, the name of its examples' group, and its weight."""

    path: Path
    name: str
    weight: float


def is_mixture(source: str) -> bool:
    """Returns whether a source `files:…` names several files, or one with a weight."""
    path = source.removeprefix("files:")
    return source.startswith("files:") and ("," in path or re.search(r"\*[0-9.]+$", path) is not None)


def read_parts(source: str) -> list[Part]:
    """Returns the parts of a mixture such as files:news.jsonl*2,questions.jsonl*0.5; a weight not given is 1.

    Raises:
        UserError: an entry is no path with a weight above 0, or two have the same name.
    """
    parts: list[Part] = []
    for entry in source.removeprefix("files:").split(","):
        match = _WEIGHTED.fullmatch(entry.strip())
        weight = float(match[2] or 1) if match else 0.0
        if match is None or not 0 < weight <= _MOST:
            raise UserError(
                f"data.source={source!r:.200} has the entry {entry.strip()!r:.80}, expected PATH or PATH*WEIGHT with a "
                f"weight above 0 and at most {_MOST:g}, the passes over the file in an epoch."
            )
        path = expand_local(match[1], "data.source=files")
        parts.append(Part(path, path.name.partition(".")[0], weight))
    names = [part.name for part in parts]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(
            f"data.source={source!r:.200} names {twice!r} twice, but scores are told apart by these names; rename one."
        )
    return parts


def repeat(examples: Sequence[Example], weight: float, seed: int) -> list[Example]:
    """Returns examples as often as a weight says; of a fraction, those that a hash of their number draws.

    Args:
        examples: the training examples of a part.
        weight: the passes over them; at least one example is kept.
        seed: data.split_seed.
    """
    whole = math.floor(weight)
    count = max(round((weight - whole) * len(examples)), 0 if whole else 1)
    order = np.argsort(hash_numbers(seed & 0xFFFFFFFF, np.arange(len(examples))), kind="stable")
    return [*examples] * whole + [examples[number] for number in sorted(order[:count].tolist())]
