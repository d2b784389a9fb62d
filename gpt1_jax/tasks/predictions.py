"""Predictions as the benchmarks want them submitted: GLUE's TSV, an index and a prediction a line."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.whole_files import write_whole


def write_predictions(
    directory: epath.Path, split: str, task: Task, predictions: np.ndarray, examples: Sequence[Example]
) -> None:
    """Writes SPLIT.tsv, or SPLIT_GROUP.tsv for each group; nothing where there are no examples.

    Args:
        directory: is made where it is not there.
        split: "validation" or "test".
        task: gives the names of the classes.
        predictions: [N], numbers of classes or choices, or scores.
        examples: N, of whose groups each is numbered from 0.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for group in sorted({example.group for example in examples}):
        chosen = [
            named(task, prediction)
            for prediction, example in zip(predictions.tolist(), examples, strict=True)
            if example.group == group
        ]
        lines = [f"{index}\t{name}\n" for index, name in enumerate(chosen)]
        file = directory / f"{'_'.join(filter(None, (split, group)))}.tsv"
        write_whole(file, "index\tprediction\n" + "".join(lines))


def named(task: Task, prediction: float) -> str:
    """A prediction as the data set's files write it: a class or choice by its name there, a score to 3 decimals."""
    if task.score_range:
        return f"{clip_score(task, prediction):.3f}"
    names = task.labels or task.answers
    return names[int(prediction)] if names else str(int(prediction))


def clip_score(task: Task, score: float) -> float:
    """A score within the task's range."""
    assert task.score_range is not None
    low, high = task.score_range
    return min(max(score, low), high)
