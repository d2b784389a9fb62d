"""What fine-tunings of one kind score: the median over their seeds, and how far other seeds and examples would move it.

Letters: N examples, K seeds, R resamples.
"""

import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.comparing import read_labeled
from benchmarks.published import Cell
from benchmarks.variants import is_finished
from gpt1_jax.config import DataConfig
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.intervals import interval, weighted_scores
from gpt1_jax.tasks.reading import read_split
from gpt1_jax.tasks.task import Example, Metric, Task, TaskSplit

_RESAMPLES = 1000


class Score(NamedTuple):
    """A score in hundredths.

    Attributes:
        median: over seeds.
        draws: medians of resampled seeds and examples, [R].
        seeds: K.
        part: "test" or "validation"; "both" of a mean.
    """

    median: float
    draws: np.ndarray
    seeds: int
    part: str

    @property
    def interval(self) -> tuple[float, float]:
        """The middle 95 % of the draws."""
        return interval(self.draws)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.median:.1f} ({low:.1f} to {high:.1f})"

    def beside(self, other: float) -> str:
        """Returns by how much this differs from a published number, and whether the seeds resolve that."""
        low, high = self.interval
        verdict = "" if self.seeds > 1 and not low <= other <= high else "not resolved: "
        return f"{verdict}{self.median - other:+.1f}"


def score(place: Path, cell: Cell, source: str) -> Score | None:
    """Returns what the finished fine-tunings PLACE/SEED score; None without one, or without the cell's examples.

    Test parts are scored where their labels are known, as the paper's are, and validation parts elsewhere.

    Args:
        place: the directory of a variant.
        cell: the task, the metric and the groups.
        source: the task's data.source.
    """
    runs = sorted(path.parent for path in place.glob("*/results.json") if is_finished(path.parent))
    task, part = find_task(cell.task), labeled_part(cell.task, source)
    if not runs or part is None:
        return None
    examples = read_examples(cell.task, source, part)
    groups = [name for name in cell.groups if any(example.group == name for example in examples)]
    found = (
        [_score(task, cell.metric, examples, runs, part, (name,)) for name in groups]
        if cell.groups
        else [_score(task, cell.metric, examples, runs, part, ())]
    )
    return mean(found) if found else None


def mean(scores: Sequence[Score]) -> Score:
    """Returns the mean of scores, whose draws are independent unless they are of one task."""
    part = scores[0].part if len({one.part for one in scores}) == 1 else "both"
    return Score(
        float(np.mean([one.median for one in scores])),
        np.mean([one.draws for one in scores], axis=0),
        min(one.seeds for one in scores),
        part,
    )


@cache
def read_examples(task: str, source: str, part: TaskSplit) -> list[Example]:
    """Returns the examples of a part of a task."""
    return read_split(find_task(task), DataConfig(source=source), part)


def labeled_part(task: str, source: str) -> TaskSplit | None:
    """Returns which part is scored: test where its labels are known, otherwise validation; None if neither has any."""
    parts: tuple[TaskSplit, ...] = ("test", "validation")
    for part in parts:
        known = [example.label is not None for example in read_examples(task, source, part)]
        # Test parts of SNLI have a few pairs without a label.
        if known and sum(known) > len(known) / 2:
            return part
    return None


def _score(
    task: Task,
    metric: Metric,
    examples: Sequence[Example],
    runs: Sequence[Path],
    part: str,
    groups: tuple[str, ...],
) -> Score:
    """Returns the score on the examples of some groups, or of all."""
    names = groups or tuple(dict.fromkeys(example.group for example in examples))
    labels, predictions = read_labeled(runs, task, examples, part, names)
    median, draws = resample(metric, labels, predictions, task)
    return Score(median, draws, len(runs), part)


def resample(
    metric: Metric, labels: np.ndarray, predictions: np.ndarray, task: Task
) -> tuple[float, np.ndarray]:
    """Returns the median over seeds, and that of resampled examples and seeds, float64 [R], in hundredths.

    Args:
        metric: of the task.
        labels: [N].
        predictions: [K, N].
        task: its name chooses the resamples, so that those of different tasks are independent.
    """
    # Examples with the same label and predictions count as one that occurs so often.
    rows, counts = np.unique(np.vstack([labels, predictions]), axis=1, return_counts=True)
    generator = np.random.default_rng(zlib.crc32(task.name.encode()))
    weights = generator.multinomial(len(labels), counts / len(labels), size=_RESAMPLES)
    drawn = generator.integers(len(predictions), size=(_RESAMPLES, len(predictions)))
    right, *found = rows

    def scores(weights: np.ndarray) -> np.ndarray:
        """float64 [R, K]."""
        return np.stack([weighted_scores(metric, one, right, weights, task.positive) for one in found], 1)

    draws = np.median(np.take_along_axis(scores(weights), drawn, axis=1), axis=1)
    return 100 * float(np.median(scores(counts[None]))), 100 * draws
