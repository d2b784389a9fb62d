"""Metrics: the published formulas, written out in NumPy, and scikit-learn's and scipy's own values."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from gpt1_jax.tasks.predictions import named, predict_labels
from gpt1_jax.tasks.scoring import compute_metrics, score_predictions
from gpt1_jax.tasks.task import Example, Metric, Task

CLASS_METRICS: tuple[Metric, ...] = ("accuracy", "f1", "matthews_correlation")
SCORE_METRICS: tuple[Metric, ...] = ("pearson", "spearman")


# ── The formulas ─────────────────────────────────────────────────────────────────────────────────────────────


def binary_by_hand(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns the scores by the four counts of the confusion matrix; class 1 is the positive one."""
    tp = float(((predictions == 1) & (labels == 1)).sum())
    fp = float(((predictions == 1) & (labels == 0)).sum())
    fn = float(((predictions == 0) & (labels == 1)).sum())
    tn = float(((predictions == 0) & (labels == 0)).sum())
    return {
        "accuracy": (tp + tn) / len(labels),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "matthews_correlation": (tp * tn - fp * fn)
        / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
    }


def pearson_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64) - a.mean(), b.astype(np.float64) - b.mean()
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def ranks_by_hand(values: np.ndarray) -> np.ndarray:
    """Equal values share the mean of their ranks."""
    return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])


@pytest.mark.parametrize("seed", range(5))
def test_class_metrics_are_their_formulas(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = (generator.random(200) < 0.3).astype(int)
    predictions = np.where(generator.random(200) < 0.7, labels, generator.integers(0, 2, 200))
    found = compute_metrics(CLASS_METRICS, predictions, labels)
    assert found == pytest.approx(binary_by_hand(predictions, labels), rel=1e-12)
    assert found == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
            "f1": sklearn.metrics.f1_score(labels, predictions),
            "matthews_correlation": sklearn.metrics.matthews_corrcoef(labels, predictions),
        },
        rel=1e-12,
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_their_formulas(seed: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.uniform(0, 5, 100)
    if ties:
        labels = labels.round()
    predictions = (labels + generator.normal(0, 1, 100)).round(0 if ties else 3).astype(np.float32)
    found = compute_metrics(SCORE_METRICS, predictions, labels)
    ranks = ranks_by_hand(predictions), ranks_by_hand(labels)
    by_hand = {"pearson": pearson_by_hand(predictions, labels), "spearman": pearson_by_hand(*ranks)}
    assert found == pytest.approx(by_hand, rel=1e-6)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(predictions, labels).statistic, rel=1e-9)
    assert abs(found["pearson"] - found["spearman"]) > 1e-3


def test_literal_values() -> None:
    labels, predictions = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0]), np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0])
    assert compute_metrics(CLASS_METRICS, predictions, labels) == pytest.approx(
        {"accuracy": 0.8, "f1": 0.75, "matthews_correlation": 14 / 24}
    )
    scores = compute_metrics(SCORE_METRICS, np.array([1, 2, 3, 10]), np.array([1, 3, 2, 4]))
    assert scores == pytest.approx({"pearson": 13 / math.sqrt(50 * 5), "spearman": 0.8})


def test_perfect_and_opposite_predictions() -> None:
    labels, scores = np.array([0, 1, 1, 0, 1]), np.array([0, 2.5, 1, 4, 5])
    assert set(compute_metrics(CLASS_METRICS, labels, labels).values()) == {1}
    assert compute_metrics(CLASS_METRICS, 1 - labels, labels) == {
        "accuracy": 0,
        "f1": 0,
        "matthews_correlation": -1,
    }
    assert compute_metrics(SCORE_METRICS, 2 * scores, scores) == pytest.approx({"pearson": 1, "spearman": 1})
    assert compute_metrics(SCORE_METRICS, -scores, scores) == pytest.approx({"pearson": -1, "spearman": -1})


@pytest.mark.parametrize("constant", [0, 1])
def test_constant_predictions_have_no_correlation(constant: int, recwarn: pytest.WarningsRecorder) -> None:
    labels, predictions = np.array([0, 1, 1, 0]), np.full(4, constant)
    found = compute_metrics(CLASS_METRICS + SCORE_METRICS, predictions, labels)
    assert found["matthews_correlation"] == found["pearson"] == found["spearman"] == 0
    assert found["f1"] == pytest.approx(2 / 3 if constant else 0)
    assert not recwarn.list  # it is an ordinary result, of a first evaluation often


def test_f1_without_a_positive_anywhere_is_zero() -> None:
    assert compute_metrics(("f1",), np.zeros(3, int), np.zeros(3, int)) == {"f1": 0}


def test_accuracy_counts_many_classes() -> None:
    assert compute_metrics(("accuracy",), np.array([0, 2, 1, 2]), np.array([0, 2, 2, 2])) == {
        "accuracy": 0.75
    }


# ── A split ──────────────────────────────────────────────────────────────────────────────────────────────────


def examples(labels: Sequence[float | None], groups: Sequence[str] | None = None) -> list[Example]:
    return [
        Example(("text",), label, group)
        for label, group in zip(labels, groups or [""] * len(labels), strict=True)
    ]


ENTAILMENT = Task("any", "entailment", ("accuracy",), labels=("a", "b", "c"))


def test_a_split_has_its_tasks_metrics_and_its_size() -> None:
    task = Task("any", "similarity", ("f1", "accuracy"), labels=("0", "1"))
    scores = score_predictions(task, np.array([1, 1, 0, 1]), examples([1, 0, 0, 1]))
    assert list(scores) == ["f1", "accuracy", "examples"]
    assert scores == {"f1": pytest.approx(0.8), "accuracy": 0.75, "examples": 4}


def test_unknown_labels_are_not_counted() -> None:
    scores = score_predictions(ENTAILMENT, np.array([0, 0, 2, 1]), examples([0, None, 2, 0]))
    assert scores == {"accuracy": pytest.approx(2 / 3), "examples": 3}


def test_scores_of_zero_are_known() -> None:
    task = Task("any", "similarity", ("pearson",), score_range=(0, 5))
    scores = score_predictions(task, np.array([0.5, 1, 2.5, 0]), examples([0.0, 1.0, 5.0, None]))
    assert scores["examples"] == 3
    assert scores["pearson"] == pytest.approx(pearson_by_hand(np.array([0.5, 1, 2.5]), np.array([0, 1, 5])))


GROUPED = examples(
    [0, 0, 1, 1, 2, None, None],
    ["matched", "mismatched", "matched", "mismatched", "mismatched"] + ["matched"] * 2,
)
PREDICTIONS = np.array([0, 1, 0, 1, 2, 0, 0])


def test_every_group_has_its_own_metrics_and_the_headline_stands_for_the_task() -> None:
    task = Task("any", "entailment", ("accuracy",), labels=("a", "b", "c"), headline="matched")
    assert score_predictions(task, PREDICTIONS, GROUPED) == {
        "accuracy": 0.5,
        "examples": 2,
        "accuracy_mismatched": pytest.approx(2 / 3),
        "examples_mismatched": 3,
    }


def test_without_a_headline_all_groups_together_stand_for_the_task() -> None:
    assert score_predictions(ENTAILMENT, PREDICTIONS, GROUPED) == {
        "accuracy": 0.6,
        "examples": 5,
        "accuracy_matched": 0.5,
        "examples_matched": 2,
        "accuracy_mismatched": pytest.approx(2 / 3),
        "examples_mismatched": 3,
    }


def test_a_group_without_a_known_label_is_left_out() -> None:
    scores = score_predictions(ENTAILMENT, np.array([0, 1]), examples([0, None], ["high", "middle"]))
    assert scores == {"accuracy": 1, "examples": 1, "accuracy_high": 1, "examples_high": 1}


# ── The positive class, and what has no correlation ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(("label", "positive"), [("", 1), ("spam", 1), ("ham", 0)])
def test_f1_is_that_of_the_positive_class(label: str, positive: int) -> None:
    task = Task("any", "classification", ("f1",), labels=("ham", "spam"), positive_label=label)
    truth, predictions = np.array([1, 0, 0, 1, 0, 0]), np.array([1, 1, 0, 0, 0, 0])
    found = score_predictions(task, predictions, examples(truth.tolist()))
    assert found["f1"] == pytest.approx(sklearn.metrics.f1_score(truth, predictions, pos_label=positive))
    assert (found["f1"] == pytest.approx(0.5)) == (positive == 1)


@pytest.mark.parametrize("truth", [[0, 0, 0], [1, 1, 1]])
@pytest.mark.parametrize("said", [[0, 0, 0], [1, 1, 1]])
@pytest.mark.parametrize("positive", [0, 1])
def test_f1_is_defined_for_one_class_alone(truth: list[int], said: list[int], positive: int) -> None:
    found = compute_metrics(("f1",), np.array(said), np.array(truth), positive)["f1"]
    assert found == (1 if said == truth == [positive] * 3 else 0)


def test_a_single_example_has_no_correlation(recwarn: pytest.WarningsRecorder) -> None:
    assert compute_metrics(SCORE_METRICS, np.array([2.5]), np.array([3.0])) == {"pearson": 0, "spearman": 0}
    assert not recwarn.list


def test_scores_beyond_the_range_are_all_its_end_and_have_no_correlation() -> None:
    task = Task("any", "similarity", ("pearson", "spearman"), score_range=(0, 3))
    labels = [0.0, 1.0, 2.0, 3.0]
    logits = np.array([[3.1], [3.4], [3.2], [3.9]], np.float32)
    predictions = predict_labels(task, logits, "regression")
    assert [named(task, prediction) for prediction in predictions.tolist()] == ["3.000"] * 4
    found = score_predictions(task, predictions, examples(labels))
    assert found == {"pearson": 0, "spearman": 0, "examples": 4}
