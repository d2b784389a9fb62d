"""Runs that were begun before a key of the config was there: what their config.json does not name is what it was then.

The schema says that value on the key itself, as `before`.
"""

import dataclasses
from typing import Any

from gpt1_jax.config import schema


def _before() -> list[tuple[str, str, Any, Any]]:
    """Section, name, value of earlier runs and default of each key that came later."""
    found = []
    for key in schema().values():
        if key.before is not dataclasses.MISSING:
            section, _, name = key.name.rpartition(".")
            found.append((section, name, key.before, key.default))
    return found


def fill_before(values: dict[str, Any]) -> dict[str, Any]:
    """The dictionaries of a run's config.json, with the keys they lack set to what was true then.

    A section that is not there, or no section at all, is left for `from_dict` to judge.
    """
    filled = dict(values)
    for section, name, before, _ in _before():
        if isinstance(filled.get(section), dict) and name not in filled[section]:
            filled[section] = filled[section] | {name: before}
    train = filled.get("train")
    if isinstance(train, dict) and train.get("num_steps") and train.get("num_epochs"):
        # Both were kept, with the steps that the epochs came to.
        filled["train"] = train | {"num_epochs": 0}
    return filled


def keep_before(values: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
    """A config's dictionaries for a run that goes on: where it lives by an old value, the new default does not count.

    Args:
        values: the config that the user names; a key with the schema's default was not asked for.
        begun: that of the run.
    """
    kept = dict(values)
    for section, name, before, default in _before():
        ours, theirs = kept.get(section), begun.get(section)
        if ours and theirs and theirs[name] == before and ours.get(name) == default:
            kept[section] = ours | {name: before}
    return kept
