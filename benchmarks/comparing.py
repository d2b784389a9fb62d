"""Whether two ways of fine-tuning differ: their predictions of the same examples, over the seeds that both have.

Letters: N examples, K seeds, R resamples.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt1_jax.run import Run
from gpt1_jax.tasks.intervals import interval, weighted_scores
from gpt1_jax.tasks.reading import read_validation
from gpt1_jax.tasks.task import Task
from gpt1_jax.training.kept import task_of

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
        return f"{verdict}{100 * self.mean:+.1f} ({interval}; {self.seeds} seeds, {self.examples:,} examples)"


def compare(task: Task, labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Compares predictions of the same examples, by a paired bootstrap over examples and seeds alike.

    Args:
        task: names the metric.
        labels: [N].
        ours, theirs: predictions of the reference and of the variant, [K, N], of the same seeds in order.
    """
    seeds, examples = ours.shape
    generator = np.random.default_rng(0)
    weights = generator.multinomial(examples, np.full(examples, 1 / examples), size=_RESAMPLES)

    def differences(weights: np.ndarray) -> np.ndarray:
        """float64 [R, K]."""
        scored, reference = (
            np.array(
                [weighted_scores(task.metrics[0], found, labels, weights, task.positive) for found in side]
            )
            for side in (theirs, ours)
        )
        return (scored - reference).T

    mean = float(differences(np.ones((1, examples))).mean())
    drawn = generator.integers(seeds, size=(_RESAMPLES, seeds))
    low, high = interval(np.take_along_axis(differences(weights), drawn, axis=1).mean(1))
    return Difference(mean, low, high, seeds, examples)


def compare_runs(reference: Path, variant: Path) -> Difference | None:
    """Compares the fine-tunings DIR/SEED of two directories by their seeds in common; None if there is none."""
    seeds = sorted(
        {path.parent.name for path in reference.glob("*/predictions")}
        & {path.parent.name for path in variant.glob("*/predictions")}
    )
    if not seeds:
        return None
    run = Run(str(reference / seeds[0]))
    task, config = task_of(run), run.config()
    assert task is not None and config.finetune is not None
    examples = [
        example
        for example in read_validation(task, config.finetune, config.data, None)
        if not task.headline or example.group == task.headline
    ]
    known = [number for number, example in enumerate(examples) if example.label is not None]
    labels = np.array([examples[number].label for number in known])
    ours, theirs = (
        np.array([read_predictions(side / seed / "predictions", task) for seed in seeds])[:, known]
        for side in (reference, variant)
    )
    return compare(task, labels, ours, theirs)


def read_predictions(directory: Path, task: Task) -> list[float]:
    """Reads the predictions of validation, of the task's headline group, as numbers of classes or choices or scores."""
    return read_column(directory / ("_".join(filter(None, ("validation", task.headline))) + ".tsv"), task)


def read_column(path: Path, task: Task) -> list[float]:
    """Reads a file of predictions, as numbers of classes or choices or scores."""
    with path.open(newline="") as file:
        _, *lines = csv.reader(file, csv.excel_tab)
    names: Sequence[str] = task.labels or task.answers
    return [names.index(value) if names else float(value) for _, value in lines]
