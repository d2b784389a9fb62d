"""The metrics of labeled tasks over whole splits; those of classes and scores are scikit-learn's and scipy's."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from gpt1_jax.tasks.answer_scores import completion_scores, span_scores
from gpt1_jax.tasks.predictions import Predictions
from gpt1_jax.tasks.tagging import entity_counts
from gpt1_jax.tasks.task import Example, Metric, Task


def compute_metrics(
    names: Sequence[Metric], predictions: np.ndarray, labels: np.ndarray, positive: int = 1
) -> dict[str, float]:
    """Computes metrics over all examples at once.

    If predictions or labels are constant, as a single example's are, a correlation is undefined and counts as 0.

    Args:
        names: the metrics to compute.
        predictions, labels: [N], class numbers or scores, in the same order.
        positive: the class whose F1 is reported, 1 in GLUE.
    """
    found = {name: _COMPUTE[name](labels, predictions) for name in names if name != "f1"}
    if "f1" in names:
        # Imported late here and below: scikit-learn and scipy take a second, and labeling needs neither.
        from sklearn.metrics import f1_score

        found["f1"] = float(
            f1_score(labels == positive, predictions == positive, zero_division=cast(Any, 0.0))
        )
    return {name: found[name] for name in names}


def _correlation(name: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy import stats

    if len(labels) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        value = float(getattr(stats, name)(labels, predictions).statistic)
    return value if np.isfinite(value) else 0.0


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


_COMPUTE = {
    "accuracy": lambda labels, predictions: float(np.mean(labels == predictions)),
    "matthews_correlation": _matthews,
    "pearson": partial(_correlation, "pearsonr"),
    "spearman": partial(_correlation, "spearmanr"),
}


def score_predictions(task: Task, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:
    """Returns a task's metrics on a split, and "examples": the number of examples whose label is known.

    If the split has groups, each group's metrics are added under names such as "accuracy_mismatched". The plain names
    belong to the task's headline group, or to all examples if there is none.

    Args:
        task: names the metrics.
        predictions: as `predictions.predict` returns them.
        examples: the N examples, in the same order.
    """
    known = np.array([example.label is not None for example in examples])
    groups = np.array([example.group for example in examples])

    def measure(chosen: np.ndarray) -> dict[str, float]:
        numbers = np.flatnonzero(chosen).tolist()
        found, right = [predictions[number] for number in numbers], [examples[number] for number in numbers]
        values = _measure(task, found, right)
        return {name: values[name] for name in task.metrics} | {"examples": len(right)}

    scores = measure(known & (groups == task.headline) if task.headline else known)
    for group in sorted(set(groups) - {"", task.headline}):
        if (chosen := known & (groups == group)).any():
            scores |= {f"{name}_{group}": value for name, value in measure(chosen).items()}
    return scores


def _measure(task: Task, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, float]:
    if task.whole:
        labels = np.array([example.label for example in examples])
        return compute_metrics(task.metrics, np.array(predictions), labels, task.positive)
    sums = {name: parts.sum(0) for name, parts in quotients(task, predictions, examples).items()}
    return {name: float(above / max(below, 1)) for name, (above, below) in sums.items()}


def quotients(
    task: Task, predictions: Sequence[Any], examples: Sequence[Example]
) -> dict[Metric, np.ndarray]:
    """Returns what each example adds to the two numbers whose quotient is a metric, for tags, spans and completions.

    Args:
        task: its kind is none of a class or a score.
        predictions: of the N examples.
        examples: have known labels.

    Returns:
        By metric [N, 2]: of a mean the example's score and 1; of the F1 of entities and of the accuracy of tags counts.
    """
    labels: list[Any] = [example.label for example in examples]
    if task.kind == "tagging":
        pairs = [
            ([task.labels[tag] for tag in found], [task.labels[tag] for tag in right])
            for found, right in zip(predictions, labels, strict=True)
        ]
        same = [(sum(map(str.__eq__, *pair)), len(pair[0])) for pair in pairs]
        parts: dict[Metric, list[tuple[int, int]]] = {
            "f1": [entity_counts(*pair) for pair in pairs],
            "accuracy": same,
        }
        return {name: np.array(values, np.float64).reshape(-1, 2) for name, values in parts.items()}
    if task.kind == "span":
        accepted = [
            [example.texts[1][start:end] for start, end in spans]
            for example, spans in zip(examples, labels, strict=True)
        ]
        scores = span_scores([answer.text for answer in predictions], accepted)
    else:
        scores = completion_scores(task.metrics, predictions, labels)
    return {name: np.stack([values, np.ones(len(values))], 1) for name, values in scores.items()}
