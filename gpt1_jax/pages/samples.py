"""The samples that a pre-training wrote, from TensorBoard's files of the run."""

import struct
from collections.abc import Iterator
from typing import Any

from etils import epath
from google.protobuf.message import DecodeError

_SAMPLE = "sample"
# What stands in an event that has a sample, or the number of the field `session_log`.
_WANTED = (_SAMPLE.encode(), b"\x3a")
# Longer records are not ours.
_LARGEST = 2**24


def read_samples(directory: epath.Path) -> list[tuple[int, str]]:
    """Returns the (step, text) of each sample, in order.

    A file begins with the step at which its training began; samples of that step and later ones, from before, do not
    count.
    """
    found: dict[int, str] = {}
    for path in sorted(directory.iterdir(), key=lambda path: path.name) if directory.is_dir() else []:
        for event in _events(path):
            if event.HasField("session_log"):
                found = {step: text for step, text in found.items() if step < event.step}
            for value in event.summary.value:
                if value.tag.startswith(_SAMPLE) and value.tensor.string_val:
                    found[event.step] = value.tensor.string_val[0].decode("utf-8", "replace")
    return sorted(found.items())


def _events(path: epath.Path) -> Iterator[Any]:
    """Yields the events of a file that may have a sample or begin a session.

    Each event of the file has its length, a checksum, the content and another checksum.
    """
    # It takes half a second to import, which a page without samples, and the start of a training, are spared.
    from gpt1_jax.disk.events import Event

    content = path.read_bytes()
    start = 0
    while start + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        if length > _LARGEST or start + 16 + length > len(content):
            return
        event = content[start + 12 : start + 12 + length]
        start += 16 + length
        # Of a long run, nearly all are points of curves, which take long to read and are not wanted.
        if not any(sign in event for sign in _WANTED):
            continue
        try:
            yield Event.FromString(event)
        except DecodeError:
            return
