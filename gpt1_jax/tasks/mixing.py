"""Several files of completions in one run, each with a weight: the passes over it in an epoch."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt1_jax.disk.paths import expand_local
from gpt1_jax.errors import UserError
from gpt1_jax.hashing import hash_numbers
from gpt1_jax.tasks.task import Example

_WEIGHT = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")
_MOST = 1000.0


class Share(NamedTuple):
    """A file or a directory of a mixture, the name of its examples' group, and its weight."""

    path: Path
    name: str
    weight: float


def is_mixture(source: str) -> bool:
    """Returns whether a source `files:…` names several files, or one with a weight."""
    path = source.removeprefix("files:")
    several = "," in path or re.search(r"\*[^*/]*$", path) is not None
    return source.startswith("files:") and several and not os.path.lexists(path)


def read_shares(source: str) -> list[Share]:
    """Returns the shares of a mixture such as files:news.jsonl*2,questions.jsonl*0.5; a weight not given is 1.

    Raises:
        UserError: an entry is no path with a weight above 0, or two have the same name.
    """
    shares: list[Share] = []
    for entry in source.removeprefix("files:").split(","):
        name, star, given = entry.strip().partition("*")
        weight = float(given) if _WEIGHT.fullmatch(given) else float(not star)
        if not name or not 0 < weight <= _MOST:
            raise UserError(
                f"data.source={source!r:.200} has the entry {entry.strip()!r:.80}, expected PATH or PATH*WEIGHT; set a "
                f"WEIGHT above 0 and at most {_MOST:g}, the passes over the file in an epoch."
            )
        path = expand_local(name, "data.source=files")
        shares.append(Share(path, path.name.partition(".")[0], weight))
    names = [share.name for share in shares]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(
            f"data.source={source!r:.200} names {twice!r} twice, but scores are told apart by these names; rename one."
        )
    return shares


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
