"""Runs that are older than some keys of the config: a missing key has the value that was in effect then.

The schema records that value on the key itself, as `before`.
"""

import dataclasses
from typing import Any

from gpt1_jax.config import schema


def _before() -> list[tuple[str, str, Any, Any]]:
    """Yields, for each later key, its section, its name, the value of older runs, and the default."""
    found = []
    for key in schema().values():
        if key.before is not dataclasses.MISSING:
            section, _, name = key.name.rpartition(".")
            found.append((section, name, key.before, key.default))
    return found


def fill_before(values: dict[str, Any]) -> dict[str, Any]:
    """Adds the keys that a run's config.json lacks, with the values that were in effect then.

    Missing or malformed sections are left to `from_dict`, which reports them.
    """
    filled = dict(values)
    for section, name, before, _ in _before():
        if isinstance(filled.get(section), dict) and name not in filled[section]:
            filled[section] = filled[section] | {name: before}
    train = filled.get("train")
    if isinstance(train, dict) and train.get("num_steps") and train.get("num_epochs"):
        # Older runs recorded both: the epochs, and the number of steps that they came to.
        filled["train"] = train | {"num_epochs": 0}
    return filled


def keep_before(values: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
    """Lets a resumed run keep an old value where the user's config has only the new default.

    Args:
        values: the user's config; a key with the schema's default counts as not set, as does an absent one.
        begun: the run's config.
    """
    kept = dict(values)
    for section, name, before, default in _before():
        ours, theirs = kept.get(section), begun.get(section)
        if ours and theirs and theirs[name] == before and ours.get(name, default) == default:
            kept[section] = ours | {name: before}
    return kept
