"""RUN/history.json: what each stretch of a run's steps was trained with, sealed against damage.

A list, oldest first, of {"from_step", "config", "identity", "files", "crc32"}: the step behind which the stretch
begins, the whole config, what text and tokenizer were, and checksums of the run's other small files. config.json is the
newest config, corpus.json the identity, for people and other programs.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from gpt1_jax.disk.whole_files import write_whole


class Stretch(NamedTuple):
    """What the steps behind `from_step` were trained with, up to the next stretch.

    Fields:
        from_step: 0 for the run's beginning.
        config: dictionaries, as config.json.
        identity: fingerprints of the text and the tokenizer, as corpus.json.
        files: the checksum, see `seal`, of each further file of JSON, by its name.
    """

    from_step: int
    config: dict[str, Any]
    identity: dict[str, Any]
    files: dict[str, int]


def read_history(path: epath.Path) -> tuple[list[Stretch], bool]:
    """The sound stretches of a history, and whether there is damage; none of a run of the time before it."""
    if not path.exists():
        return [], False
    entries = read_json(path)
    if not isinstance(entries, list):
        return [], True
    sound = [stretch for entry in entries if (stretch := _open(entry)) is not None]
    return sound, len(sound) < len(entries) or not entries


def write_history(path: epath.Path, stretches: list[Stretch]) -> None:
    """Replaces the file, whole."""
    entries = [stretch._asdict() | {"crc32": seal(stretch._asdict())} for stretch in stretches]
    write_whole(path, json.dumps(entries, indent=2) + "\n")


def extend(stretches: list[Stretch], new: Stretch) -> list[Stretch]:
    """The stretches with a new one in the place of those whose steps it does again."""
    kept = [stretch for stretch in stretches if stretch.from_step < new.from_step]
    if not kept:
        return [new._replace(from_step=0)]
    return kept if kept[-1][1:] == new[1:] else [*kept, new]


def seal(value: Any) -> int:
    """A checksum of a JSON value."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def read_json(path: epath.Path) -> Any:
    """The value of a file; None where that is missing or no JSON, as a crash may leave it."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def _open(entry: Any) -> Stretch | None:
    if not isinstance(entry, Mapping) or entry.keys() != {*Stretch._fields, "crc32"}:
        return None
    stretch = Stretch(*(entry[name] for name in Stretch._fields))
    return stretch if seal(stretch._asdict()) == entry["crc32"] else None
