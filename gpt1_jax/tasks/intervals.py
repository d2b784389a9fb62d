"""How sure a score is: bootstrap intervals of what the same examples, drawn again, would score.

Letters: N examples, R resamples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt1_jax.tasks.scoring import quotients
from gpt1_jax.tasks.task import Example, Metric, Task

# An interval leaves out half of this on each side.
_LEFT_OUT = 0.05
_RESAMPLES = 1000


def score_interval(
    task: Task, predictions: np.ndarray | Sequence[Any], examples: Sequence[Example]
) -> tuple[float, float] | None:
    """Returns the 95 % bootstrap interval of a task's first metric; None for fewer than two examples.

    It says how far the score would change with other examples of the same kind, not with another seed.

    Args:
        task: names the metric.
        predictions: of the N examples, as `predictions.predict` returns them.
        examples: those whose label is not known, or that are not of the task's headline group, are left out.
    """
    chosen = np.flatnonzero(
        [x.label is not None and (not task.headline or x.group == task.headline) for x in examples]
    )
    if len(chosen) < 2:
        return None
    metric, numbers = task.metrics[0], chosen.tolist()
    if task.whole:
        labels = np.array([examples[number].label for number in numbers])
        parts = np.stack([labels, np.asarray(predictions)[chosen]], 1)
    else:
        some = [examples[number] for number in numbers]
        parts = quotients(task, [predictions[number] for number in numbers], some)[metric]
    # Examples with the same label and prediction, or the same parts of a quotient, count as one that occurs so often.
    cells, counts = np.unique(parts, axis=0, return_counts=True)
    weights = np.random.default_rng(0).multinomial(len(chosen), counts / len(chosen), size=_RESAMPLES)
    if task.whole:
        return interval(weighted_scores(metric, cells[:, 1], cells[:, 0], weights, task.positive))
    return interval(_quotient(*(weights @ cells).T))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Returns the middle 95 % of resampled values [R]."""
    low, high = np.quantile(values, (_LEFT_OUT / 2, 1 - _LEFT_OUT / 2))
    return float(low), float(high)


def weighted_scores(
    metric: Metric, predictions: np.ndarray, labels: np.ndarray, weights: np.ndarray, positive: int = 1
) -> np.ndarray:
    """Returns the scores [R] of examples that occur as often as R resamples say; see `scoring.compute_metrics`.

    Args:
        metric: of a class, a choice or a score.
        predictions, labels: [N].
        weights: int [R, N].
        positive: the class whose F1 is meant.
    """
    weights = weights.astype(np.float64)
    if metric == "accuracy":
        return weights @ (predictions == labels) / weights.sum(1)
    if metric == "f1":
        found, real = predictions == positive, labels == positive
        return _quotient(2 * weights @ (found & real), weights @ found + weights @ real)
    if metric == "matthews_correlation":
        # The correlation of indicators of the classes.
        classes = np.unique(np.concatenate([predictions, labels]))
        found, real = (weights @ (values[:, None] == classes) for values in (predictions, labels))
        total, right = weights.sum(1), weights @ (predictions == labels)
        spread = (total**2 - (found**2).sum(1)) * (total**2 - (real**2).sum(1))
        return _quotient(right * total - (found * real).sum(1), np.sqrt(spread))
    if metric == "spearman":
        return _correlation(_ranks(predictions, weights), _ranks(labels, weights), weights)
    assert metric == "pearson"
    return _correlation(predictions, labels, weights)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the ranks of values [N] that occur so often, [R, N]; equal ones share the mean of their ranks."""
    order = np.argsort(values, kind="stable")
    _, starts, places = np.unique(values[order], return_index=True, return_inverse=True)
    totals = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(totals, axis=1) - totals / 2
    found = np.empty_like(weights)
    found[:, order] = ranks[:, places]
    return found


def _correlation(found: np.ndarray, real: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns Pearson's correlation [R] of two variables, [N] or [R, N], with weights [R, N]."""
    weights = weights / weights.sum(1, keepdims=True)
    found, real = (values - (weights * values).sum(1, keepdims=True) for values in (found, real))
    covariance = (weights * found * real).sum(1)
    variances = [(weights * values**2).sum(1) for values in (found, real)]
    return _quotient(covariance, np.sqrt(variances[0] * variances[1]))


def _quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns 0 where the denominator is 0, as `compute_metrics` does."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)
