"""Tagging: entities as seqeval counts them, and a place for every word, however long its sentence."""

import random

import numpy as np
import pytest
from test_encoding import Letters

from gpt1_jax.tasks.encoding import encode_examples
from gpt1_jax.tasks.tagging import Entity, decode_tags, entity_counts, find_entities
from gpt1_jax.tasks.task import Example, Task

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
NAMES = Task("names", "tagging", ("f1", "accuracy"), labels=TAGS)


def test_entities_begin_at_a_b_and_in_iob1_at_an_i_too() -> None:
    tags = ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-PER"]
    expected = [Entity("PER", 0, 2), Entity("LOC", 3, 4), Entity("LOC", 4, 5), Entity("PER", 5, 6)]
    assert find_entities(tags) == expected


def test_entities_and_their_f1_are_those_of_seqeval() -> None:
    metrics = pytest.importorskip("seqeval.metrics", reason="seqeval is the reference; it is not installed")
    sequence_labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    chance = random.Random(0)
    tags = (*TAGS, "E-PER", "S-PER", "E-LOC", "S-LOC")
    right = [chance.choices(tags, k=chance.randrange(1, 12)) for _ in range(300)]
    found = [[tag if chance.random() < 0.7 else chance.choice(tags) for tag in row] for row in right]
    for row in right:
        ours = [(label, start, stop - 1) for label, start, stop in find_entities(row)]
        assert ours == sequence_labeling.get_entities(row)
    numerators, denominators = zip(*map(entity_counts, found, right), strict=True)
    assert sum(numerators) / sum(denominators) == pytest.approx(metrics.f1_score(right, found))


@pytest.mark.parametrize("context_length", [8, 32])
def test_every_word_is_read_at_its_last_piece_in_one_of_the_windows(context_length: int) -> None:
    words = ("ab", "c", "defghijklmnop", "q", "rs")

    class Spaced(Letters):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.strip())

    encoded = encode_examples(NAMES, [Example(words, (0, 1, 2, 3, 4))], Spaced(), context_length, "classes")
    assert encoded.places().sum() == len(words) and encoded.lengths().max() <= context_length
    outputs = [
        encoded.head_labels(np.array([row]), int(encoded.lengths()[row]))[0][0] for row in range(len(encoded))
    ]
    assert decode_tags(encoded, outputs, 1) == [(0, 1, 2, 3, 4)]
