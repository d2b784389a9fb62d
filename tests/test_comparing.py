"""Comparisons of two ways of fine-tuning, on predictions whose difference is known."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.comparing import compare, read_predictions
from gpt1_jax.tasks.catalog import find_task

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 2, 400)


def right_at(share: float, seeds: int) -> np.ndarray:
    """Predictions of LABELS, of which about so many are right."""
    right = GENERATOR.random((seeds, len(LABELS))) < share
    return np.where(right, LABELS, 1 - LABELS)


def test_a_large_difference_is_resolved_and_has_its_sign() -> None:
    found = compare(find_task("rte"), LABELS, right_at(0.6, 5), right_at(0.8, 5))
    assert found.resolved and 0.1 < found.low < found.mean < found.high < 0.3
    assert (found.seeds, found.examples) == (5, 400)
    back = compare(find_task("rte"), LABELS, right_at(0.8, 5), right_at(0.6, 5))
    assert back.resolved and back.mean < 0


@pytest.mark.parametrize("task", ["rte", "mrpc", "cola"])
def test_equals_are_not_resolved_and_said_so(task: str) -> None:
    found = compare(find_task(task), LABELS, right_at(0.7, 5), right_at(0.7, 5))
    assert not found.resolved and str(found).startswith("not resolved: ")


def test_seeds_that_contradict_each_other_resolve_nothing() -> None:
    """One seed gains much and the other loses as much, on ever so many examples."""
    low, high = right_at(0.5, 1)[0], right_at(0.9, 1)[0]
    assert not compare(find_task("rte"), LABELS, np.array([low, high]), np.array([high, low])).resolved


def test_one_seed_resolves_nothing() -> None:
    assert not compare(find_task("rte"), LABELS, right_at(0.5, 1), right_at(0.9, 1)).resolved


def test_pairing_by_examples_sees_what_two_intervals_would_not() -> None:
    """The variant corrects 12 of 400 examples and spoils none."""
    ours = right_at(0.7, 3)
    theirs = ours.copy()
    theirs[:, np.flatnonzero((ours != LABELS).all(0))[:12]] = LABELS[
        np.flatnonzero((ours != LABELS).all(0))[:12]
    ]
    found = compare(find_task("rte"), LABELS, ours, theirs)
    assert found.resolved and found.mean == pytest.approx((theirs == LABELS).mean() - (ours == LABELS).mean())


@pytest.mark.parametrize(
    ("task", "name", "lines", "expected"),
    [
        ("rte", "validation", ["entailment", "not_entailment"], [0, 1]),
        ("mnli", "validation_matched", ["neutral", "entailment"], [1, 0]),
        ("race_middle", "validation", ["C", "A"], [2, 0]),
        ("stsb", "validation", ["0.125", "4.000"], [0.125, 4.0]),
    ],
)
def test_predictions_are_read_as_they_were_written(
    tmp_path: Path, task: str, name: str, lines: list[str], expected: list[float]
) -> None:
    text = "index\tprediction\n" + "".join(f"{number}\t{line}\n" for number, line in enumerate(lines))
    (tmp_path / f"{name}.tsv").write_text(text)
    assert read_predictions(tmp_path, find_task(task)) == expected
