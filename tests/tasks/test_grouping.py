"""Who shares a batch: fresh company each epoch, no batch of one class, and the batches of earlier runs as they were."""

import itertools

import numpy as np
import pytest

from gpt1_jax.tasks.encoded import EncodedExamples
from gpt1_jax.tasks.grouping import POOL_BATCHES, Batching, Grouping, Remainder, find_strata

RTE, STORY_CLOZE = 2490, 1871


def some_lengths(count: int) -> np.ndarray:
    generator = np.random.default_rng(1)
    return np.clip(generator.lognormal(4, 0.6, count), 8, 256).astype(int)


def epochs_of(
    grouping: Grouping, lengths: np.ndarray, strata: np.ndarray | None = None, count: int = 3
) -> list[list[np.ndarray]]:
    strata = np.zeros(len(lengths), int) if strata is None else strata
    return [grouping.epoch(lengths, strata, np.random.default_rng((0, epoch))) for epoch in range(count)]


def recurring(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Of the pairs that share a batch in one epoch, the part that shares one in the other."""
    place = np.arange(-1, -1 - RTE, -1)  # who is left out there meets nobody
    for number, batch in enumerate(other):
        place[batch] = number
    counts = np.concatenate([np.unique(place[batch], return_counts=True)[1] for batch in one])
    again = (counts * (counts - 1)).sum()
    return again / sum(len(batch) * (len(batch) - 1) for batch in one)


@pytest.mark.parametrize("count", [RTE, STORY_CLOZE])
@pytest.mark.parametrize(("rule", "most"), [("bucketed", 0.04), ("shuffled", 0.02)])
@pytest.mark.parametrize("remainder", ["spread", "dropped"])
def test_pairs_of_examples_hardly_meet_again_in_the_next_epoch(
    rule: Batching, remainder: Remainder, count: int, most: float
) -> None:
    epochs = epochs_of(Grouping(rule, remainder, 32), some_lengths(count), count=4)
    assert max(recurring(a, b) for a, b in itertools.combinations(epochs, 2)) < most


def test_many_examples_lie_with_others_of_their_length() -> None:
    """In sets much larger than the reach of the noise; at RTE's size less so."""
    for count, most in ((40_000, 1.1), (RTE, 1.7)):
        lengths = some_lengths(count)
        (epoch,) = epochs_of(Grouping("bucketed", "spread", 32), lengths, count=1)
        assert sum(len(batch) * lengths[batch].max() for batch in epoch) < most * lengths.sum()


@pytest.mark.parametrize("rule", ["bucketed", "shuffled"])
def test_no_batch_is_skewed_by_a_class_that_goes_with_length(rule: Batching) -> None:
    """The long third of all examples is one class: bucketing deals it out evenly, where sorting would gather it."""
    lengths = some_lengths(RTE)
    strata = (lengths > np.quantile(lengths, 2 / 3)).astype(int)
    for epoch in epochs_of(Grouping(rule, "spread", 32), lengths, strata):
        shares = np.array([strata[batch].mean() for batch in epoch])
        assert abs(shares - strata.mean()).max() < (0.05 if rule == "bucketed" else 0.35)


@pytest.mark.parametrize("count", [1, 3, 45, 130])
def test_earlier_runs_keep_their_batches(count: int) -> None:
    """By the rule as it was: shuffled, sorted within pools, cut, and the batches shuffled."""
    lengths, size = some_lengths(count), 2
    for epoch, found in enumerate(epochs_of(Grouping("pools", "spread", size), lengths)):
        generator = np.random.default_rng((0, epoch))
        order, batches = generator.permutation(count), []
        for start in range(0, count, POOL_BATCHES * size):
            pool = order[start : start + POOL_BATCHES * size]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        expected = [batches[i].tolist() for i in generator.permutation(len(batches))]
        assert [batch.tolist() for batch in found] == expected


def encoded(labels: np.ndarray, **form: object) -> EncodedExamples:
    count = len(labels)
    return EncodedExamples(
        np.zeros(3 * count, np.uint16),
        np.arange(0, 3 * count + 1, 3),
        labels,
        np.zeros(count, np.int64),
        **form,
    )  # type: ignore[arg-type]


def test_classes_are_strata_and_scores_are_ranked_into_some() -> None:
    classes = np.array([2, 0, 1, 2])
    assert find_strata(encoded(np.eye(3, dtype=np.float32)[classes])).tolist() == classes.tolist()
    scores = np.random.default_rng(0).random((80, 1), np.float32)
    strata = find_strata(encoded(scores))
    assert np.bincount(strata).tolist() == [10] * 8
    assert (np.diff(strata[np.argsort(scores[:, 0])]) >= 0).all()
    assert find_strata(encoded(np.zeros((5, 2), np.int32), form="spans")).tolist() == [0] * 5
