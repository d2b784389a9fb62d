"""Whether two ways of fine-tuning differ: their predictions of the same examples, over the seeds that both have.

Letters: N examples, K seeds, R resamples.
"""

import csv
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from benchmarks.variants import is_finished
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.tasks.intervals import interval, weighted_scores
from gpt1_jax.tasks.reading import read_validation
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.training.kept import task_of
from gpt1_jax.wording import counted

_RESAMPLES = 2000


class Difference(NamedTuple):
    """By how much a variant scores higher, in the mean over seeds.

    Attributes:
        mean: of the task's first metric, the variant's minus the other's.
        low, high: 95 % of the resamples lie between these.
        seeds: K.
        examples: N.
    """

    mean: float
    low: float
    high: float
    seeds: int
    examples: int

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out 0, which one seed alone cannot say: its interval is of the examples only."""
        return self.seeds > 1 and (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        """Says it in hundredths: `+1.2 (0.3 to 2.1; 5 seeds, 800 examples)`."""
        verdict = "" if self.resolved else "not resolved: "
        interval = f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"
        counts = f"{counted(self.seeds, 'seed')}, {counted(self.examples, 'example')}"
        return f"{verdict}{100 * self.mean:+.1f} ({interval}; {counts})"


def compare(task: Task, labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Compares predictions of the same examples, by a paired bootstrap over examples and seeds alike.

    Args:
        task: names the metric.
        labels: [N].
        ours, theirs: predictions of the reference and of the variant, [K, N], of the same seeds in order.
    """
    seeds, examples = ours.shape

    def differences(weights: np.ndarray) -> np.ndarray:
        """float64 [R, K]."""
        return _scores(task, labels, theirs, weights) - _scores(task, labels, ours, weights)

    mean = float(differences(np.ones((1, examples))).mean())
    return Difference(mean, *_interval(differences, seeds, examples), seeds, examples)


def _scores(task: Task, labels: np.ndarray, found: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the scores of predictions [K, N] on resamples, float64 [R, K]."""
    return np.stack(
        [weighted_scores(task.metrics[0], one, labels, weights, task.positive) for one in found], axis=1
    )


def _interval(measure: Callable[[np.ndarray], np.ndarray], seeds: int, examples: int) -> tuple[float, float]:
    """Returns the middle 95 % of a mean over seeds, of resampled examples and seeds."""
    generator = np.random.default_rng(0)
    weights = generator.multinomial(examples, np.full(examples, 1 / examples), size=_RESAMPLES)
    drawn = generator.integers(seeds, size=(_RESAMPLES, seeds))
    return interval(np.take_along_axis(measure(weights), drawn, axis=1).mean(1))


def compare_runs(reference: Path, variant: Path) -> Difference | None:
    """Compares the fine-tunings DIR/SEED of two directories by their seeds in common; None if there is none."""
    seeds = sorted(set(_finished(reference)) & set(_finished(variant)))
    if not seeds:
        return None
    task, labels, ours = _read_runs(reference, seeds)
    return compare(task, labels, ours, _read_runs(variant, seeds)[2])


def seeds_difference(ours: Sequence[float], theirs: Sequence[float], digits: int) -> str:
    """Returns the mean over seeds of theirs minus ours, with the 95 % interval of Student's t.

    Args:
        ours, theirs: a number a seed, of the same seeds in order.
        digits: after the point.
    """
    differences = [other - own for own, other in zip(ours, theirs, strict=True)]
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.{digits}f}"
    error = statistics.stdev(differences) / len(differences) ** 0.5
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    low, high = mean - half, mean + half
    verdict = "not resolved: " if low <= 0 <= high else ""
    interval = f"{low:+.{digits}f} to {high:+.{digits}f}"
    return f"{verdict}{mean:+.{digits}f} ({interval}; {counted(len(differences), 'seed')})"


def interval_of_runs(place: Path) -> tuple[float, float] | None:
    """Returns how far other examples and seeds would move the mean score of the fine-tunings DIR/SEED; None without."""
    seeds = sorted(_finished(place))
    if not seeds:
        return None
    task, labels, found = _read_runs(place, seeds)
    return _interval(lambda weights: _scores(task, labels, found, weights), len(seeds), len(labels))


def _finished(place: Path) -> list[str]:
    """Returns the seeds whose fine-tunings are finished and have predictions."""
    runs = (path.parent for path in place.glob("*/predictions"))
    return [run.name for run in runs if is_finished(run)]


def _read_runs(place: Path, seeds: Sequence[str]) -> tuple[Task, np.ndarray, np.ndarray]:
    """Returns the task, and labels [N] and predictions [K, N] of its headline group or of all validation examples."""
    run = Run(str(place / seeds[0]))
    task, config = task_of(run), run.config()
    assert task is not None and config.finetune is not None
    examples = read_validation(task, config.finetune, config.data, None)
    groups = (task.headline,) if task.headline else tuple(sorted({example.group for example in examples}))
    return task, *read_labeled([place / seed for seed in seeds], task, examples, "validation", groups)


def read_labeled(
    runs: Sequence[Path], task: Task, examples: Sequence[Example], part: str, groups: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the known labels [N] of some groups of examples, and what K runs predict of these, [K, N].

    Raises:
        UserError: a run has another number of predictions.
    """
    labels: list[Any] = []
    columns: list[list[float]] = [[] for _ in runs]
    for group in groups:
        chosen = [example for example in examples if example.group == group]
        known = [number for number, example in enumerate(chosen) if example.label is not None]
        labels += [chosen[number].label for number in known]
        for run, column in zip(runs, columns, strict=True):
            path = run / "predictions" / ("_".join(filter(None, (part, group))) + ".tsv")
            values = read_column(path, task) if path.exists() else []
            if len(values) != len(chosen):
                raise UserError(
                    f"{path} has {counted(len(values), 'prediction')}, and the data "
                    f"{counted(len(chosen), 'such example')}: it changed; remove that run, or bring the data back."
                )
            column += [values[number] for number in known]
    return np.array(labels), np.array(columns)


def read_predictions(directory: Path, task: Task) -> list[float]:
    """Reads the predictions of validation, of the task's headline group, as numbers of classes or choices or scores."""
    return read_column(directory / ("_".join(filter(None, ("validation", task.headline))) + ".tsv"), task)


def read_column(path: Path, task: Task) -> list[float]:
    """Reads a file of predictions, as numbers of classes or choices or scores."""
    with path.open(newline="") as file:
        _, *lines = csv.reader(file, csv.excel_tab)
    names: Sequence[str] = task.labels or task.answers
    return [names.index(value) if names else float(value) for _, value in lines]
