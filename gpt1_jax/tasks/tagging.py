"""Tagging: a tag for each word, read from one of the word's pieces; entities are made of tags.

Letters: T positions of a row, C tags.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.tasks.encoded import NO_WORD, NOT_KNOWN, EncodedExamples, Table
from gpt1_jax.tasks.frames import Frame
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.tasks.units import Units

OUTSIDE = "O"
_PREFIXED = re.compile("[BIES]-.")


class Entity(NamedTuple):
    """A run of words that make up one entity: its label, its first word, and the word behind its last."""

    label: str
    start: int
    stop: int


def encode_tagging(
    task: Task, examples: Sequence[Example], tokenizer: Tokenizer, frame: Frame, context_length: int
) -> EncodedExamples:
    """Makes the rows `start words end`; a sentence that is too long goes on in a further row, between two words.

    Each word but the first is encoded with a space before it. The tag stands at the last piece of a word for a causal
    model, and at the first for one that reads both ways. A word without pieces, such as a control character that the
    tokenizer drops, is read as the delimiter. Only a word that is longer than a whole row is cut. So every word of
    every sentence has a place and gets a prediction.
    """
    units = Units(tokenizer, (unit for example in examples for unit in _written(example.texts)))
    room, table = context_length - 2, Table()
    for owner, example in enumerate(examples):
        known = example.label if isinstance(example.label, tuple) else (NOT_KNOWN,) * len(example.texts)
        whole = [units.ids(unit) or [frame.delimiter] for unit in _written(example.texts)]
        words = [ids[:room] for ids in whole]
        for begin, stop in _windows(words, room):
            ids = [id for word in words[begin:stop] for id in word]
            labels: list[Any] = [NO_WORD]
            for tag, word in zip(known[begin:stop], words[begin:stop], strict=True):
                place = frame.word_place(len(word))
                labels += [tag if number == place else NO_WORD for number in range(len(word))]
            cut = sum(map(len, whole[begin:stop])) - len(ids)
            row = [frame.start, *ids, frame.end]
            table.add(row, [*labels, NO_WORD], owner=owner, begin=begin, cut=cut)
    return table.encoded("tags", frame.both_ways, len(task.labels))


def _windows(words: Sequence[Sequence[int]], room: int) -> Iterator[tuple[int, int]]:
    """Yields the first word of each row and the word behind its last; none of the words is longer than the room."""
    begin = length = 0
    for number, word in enumerate(words):
        if length + len(word) > room:
            yield begin, number
            begin, length = number, 0
        length += len(word)
    if words:
        yield begin, len(words)


def _written(words: Sequence[str]) -> Iterator[str]:
    return (" " * (number > 0) + word for number, word in enumerate(words))


def word_logits(encoded: EncodedExamples, outputs: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Returns the logits [words, C] of every word of `count` examples, from each row's logits [T, C]."""
    assert encoded.owners is not None
    found: list[list[np.ndarray]] = [[] for _ in range(count)]
    for row, (owner, logits) in enumerate(zip(encoded.owners.tolist(), outputs, strict=True)):
        found[owner].append(logits[encoded.tags(row) != NO_WORD])
    return [np.concatenate([np.zeros((0, encoded.classes), np.float32), *rows]) for rows in found]


def decode_tags(encoded: EncodedExamples, outputs: Sequence[np.ndarray], count: int) -> list[tuple[int, ...]]:
    """Returns the number of the likeliest tag of every word of `count` examples, from each row's logits [T, C]."""
    return [tuple(logits.argmax(-1).tolist()) for logits in word_logits(encoded, outputs, count)]


# ── Entities ─────────────────────────────────────────────────────────────────────────────────────────────────


def find_entities(tags: Sequence[str]) -> list[Entity]:
    """Returns the entities that tags make up, as the script conlleval of CoNLL's shared tasks counts them.

    An entity of a label begins at a B, or at an I of that label that follows another label or no entity (as IOB1 begins
    most of them), and goes on over each I of its label. A tag without a prefix is one word's entity, except for O,
    though neighbors with the same such tag are joined.
    """
    entities: list[Entity] = []
    prefix, label = OUTSIDE, ""
    for number, tag in enumerate(tags):
        before, (prefix, label) = (prefix, label), _split(tag)
        if prefix == OUTSIDE:
            continue
        if prefix in "BS" or before[0] in "OES" or before[1] != label:
            entities.append(Entity(label, number, number + 1))
        else:
            entities[-1] = entities[-1]._replace(stop=number + 1)
    return entities


def _split(tag: str) -> tuple[str, str]:
    """Returns the prefix and the label of a tag: O, or one of BIES with - and the label; any other tag is a label."""
    if tag in (OUTSIDE, ""):
        return OUTSIDE, ""
    return (tag[0], tag[2:]) if _PREFIXED.match(tag) else ("I", tag)


def has_entities(labels: Sequence[str]) -> bool:
    """Returns whether tags are those of entities: besides O all have a prefix, and there is at least one."""
    prefixed = [bool(_PREFIXED.match(tag)) for tag in labels if tag != OUTSIDE]
    return bool(prefixed) and all(prefixed)


def entity_counts(predicted: Sequence[str], right: Sequence[str]) -> tuple[int, int]:
    """Returns what a sentence adds to the numerator and to the denominator of the F1 of entities.

    An entity counts as found if its label, its first and its last word are all right.
    """
    found, known = {*find_entities(predicted)}, {*find_entities(right)}
    return 2 * len(found & known), len(found) + len(known)
