"""RUN/history.json: what each stretch of a run's steps was trained with, sealed against damage.

It is a list, oldest first, of {"from_step", "config", "identity", "files", "crc32"}: the step after which the stretch
begins, the whole config, the identity of text and tokenizer, and checksums of the run's other small files. For people
and other programs, config.json repeats the newest config and corpus.json the identity.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from gpt1_jax.disk.whole_files import write_whole


class Stretch(NamedTuple):
    """What the steps after `from_step` were trained with, up to the next stretch.

    Attributes:
        from_step: the step after which the stretch begins, 0 for the beginning of the run.
        config: the whole config as dictionaries, as in config.json.
        identity: fingerprints of the text and the tokenizer, as in corpus.json.
        files: for each further JSON file, its name and its checksum, see `seal`.
    """

    from_step: int
    config: dict[str, Any]
    identity: dict[str, Any]
    files: dict[str, int]


def read_history(path: epath.Path) -> tuple[list[Stretch], bool]:
    """Returns the undamaged stretches of a history and whether any is damaged; runs of older versions have none."""
    if not path.exists():
        return [], False
    entries = read_json(path)
    if not isinstance(entries, list):
        return [], True
    sound = [stretch for entry in entries if (stretch := _open(entry)) is not None]
    return sound, len(sound) < len(entries) or not entries


def write_history(path: epath.Path, stretches: list[Stretch]) -> None:
    """Replaces the file, all at once."""
    entries = [stretch._asdict() | {"crc32": seal(stretch._asdict())} for stretch in stretches]
    write_whole(path, json.dumps(entries, indent=2) + "\n")


def extend(stretches: list[Stretch], new: Stretch) -> list[Stretch]:
    """Returns the stretches with a new one, which replaces those whose steps it repeats."""
    kept = [stretch for stretch in stretches if stretch.from_step < new.from_step]
    if not kept:
        return [new._replace(from_step=0)]
    return kept if kept[-1][1:] == new[1:] else [*kept, new]


def seal(value: Any) -> int:
    """Returns a checksum of a JSON value."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def read_json(path: epath.Path) -> Any:
    """Returns the value of a JSON file, or None if it is missing or was damaged, say by a crash."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def _open(entry: Any) -> Stretch | None:
    if not isinstance(entry, Mapping) or entry.keys() != {*Stretch._fields, "crc32"}:
        return None
    stretch = Stretch(*(entry[name] for name in Stretch._fields))
    return stretch if seal(stretch._asdict()) == entry["crc32"] else None
