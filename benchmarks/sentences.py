"""The demo text as it was written, and with its sentences shuffled: all else about the two is equal."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

from gpt1_jax.data.demo import Demo
from gpt1_jax.data.splits import HELD_OUT

ORDERS = ("contiguous", "shuffled")
# A sentence ends behind a mark, which a quote may close.
_SENTENCE = re.compile(r"(?<=[.?!])\s+|(?<=[.?!][\"')])\s+")


def write_text(path: Path, order: str) -> None:
    """Writes the demo's training text in 19 documents, and its validation text as the twentieth."""
    lines = "\n".join(Demo().read("train", 0)).split("\n")
    if order == "shuffled":
        lines = shuffle_sentences(lines)
    size = -(-len(lines) // (HELD_OUT - 1))
    documents = ["\n".join(lines[start : start + size]) for start in range(0, len(lines), size)]
    documents.append("\n".join(Demo().read("validation", 0)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


def shuffle_sentences(lines: Sequence[str]) -> list[str]:
    """Returns lines with as many sentences as before, drawn from those of all lines, each of them once."""
    cut = [_SENTENCE.split(line) for line in lines]
    sentences = [sentence for line in cut for sentence in line]
    random.Random(0).shuffle(sentences)
    left = iter(sentences)
    return [" ".join(next(left) for _ in line) for line in cut]
