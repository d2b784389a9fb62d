"""Bootstrap intervals beside scipy's own, and beside what they mean."""

import numpy as np
import pytest
from scipy import stats

from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.intervals import score_interval, weighted_scores
from gpt1_jax.tasks.scoring import compute_metrics, quotients
from gpt1_jax.tasks.task import Example, Metric, Task

GENERATOR = np.random.default_rng(0)


def examples_of(labels: np.ndarray, group: str = "") -> list[Example]:
    return [Example(("text",), label, group) for label in labels.tolist()]


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("rte", "accuracy"),
        ("mrpc", "f1"),
        ("cola", "matthews_correlation"),
        ("stsb", "pearson"),
        ("stsb", "spearman"),
    ],
)
def test_examples_that_occur_several_times_score_as_if_they_were_written_out(
    name: str, metric: Metric
) -> None:
    """By scikit-learn and scipy, on the resamples one by one."""
    task = find_task(name)
    predictions, labels = some_predictions(name)
    if metric == "spearman":
        labels = labels.round()  # with ties
    weights = GENERATOR.multinomial(60, [1 / 60] * 60, size=20)
    weights[0] = [60, *[0] * 59]  # constant, where correlations are undefined
    expected = [
        compute_metrics((metric,), np.repeat(predictions, row), np.repeat(labels, row), task.positive)[metric]
        for row in weights
    ]
    assert weighted_scores(metric, predictions, labels, weights, task.positive) == pytest.approx(expected)


def some_predictions(name: str) -> tuple[np.ndarray, np.ndarray]:
    if name == "stsb":
        scores = GENERATOR.random(60) * 5
        return np.clip(scores + GENERATOR.normal(0, 1, 60), 0, 5), scores
    labels = GENERATOR.integers(0, 2, 60)
    return np.where(GENERATOR.random(60) < 0.8, labels, 1 - labels), labels


def test_the_interval_is_that_of_scipys_bootstrap() -> None:
    predictions, labels = some_predictions("stsb")
    found = stats.bootstrap(
        (predictions, labels),
        lambda one, other: stats.pearsonr(one, other, axis=-1).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
    ).confidence_interval
    assert score_interval(find_task("stsb"), predictions, examples_of(labels)) == pytest.approx(
        tuple(found), abs=0.03
    )


def test_more_examples_make_it_narrower_and_the_same_examples_the_same() -> None:
    labels = np.arange(1000) % 2
    predictions = np.where(np.arange(1000) % 5 == 0, 1 - labels, labels)
    wide, narrow = (
        score_interval(find_task("rte"), predictions[:count], examples_of(labels[:count]))
        for count in (100, 1000)
    )
    assert wide is not None and narrow is not None
    assert wide[0] < narrow[0] < 0.8 < narrow[1] < wide[1]
    assert score_interval(find_task("rte"), predictions, examples_of(labels)) == narrow


def test_only_known_labels_of_the_headline_count() -> None:
    examples = [*examples_of(np.ones(50, int), "matched"), *examples_of(np.zeros(50, int), "mismatched")]
    assert score_interval(find_task("mnli"), np.ones(100, int), examples) == (1, 1)
    unknown = [Example(("text",), None, "matched")] * 50
    assert score_interval(find_task("mnli"), np.ones(100, int), [*examples[:50], *unknown]) == (1, 1)
    assert score_interval(find_task("rte"), np.ones(1, int), examples_of(np.ones(1, int))) is None


def test_a_mean_over_texts_has_the_interval_of_its_examples_each_judged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = Task("custom", "completion", ("exact_match",))
    right = [n % 4 > 0 for n in range(200)]
    judged = []

    def count(task: Task, predictions: list[str], examples: list[Example]) -> dict[Metric, np.ndarray]:
        judged.extend(predictions)
        return quotients(task, predictions, examples)

    monkeypatch.setattr("gpt1_jax.tasks.intervals.quotients", count)
    found = score_interval(task, ["yes" if x else "no" for x in right], [Example(("Is it?",), "yes")] * 200)
    expected = stats.binom.ppf([0.025, 0.975], 200, 0.75) / 200
    assert found == pytest.approx(tuple(expected), abs=0.02) and len(judged) == 200
