"""What a prediction is: of the head's outputs a class, a choice or a score, and how files name it."""

import csv
import io
from collections.abc import Sequence

import numpy as np
from etils import epath

from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.tasks.encoding import ScoreForm
from gpt1_jax.tasks.task import Example, Task


def predict_labels(task: Task, logits: np.ndarray, scores: ScoreForm) -> np.ndarray:
    """What logits [N, C] say, [N]: the number of the class or choice, or a score within the task's range.

    Metrics, files and answers all take it from here.
    """
    if task.score_range is None:
        return logits.argmax(-1)
    low, high = task.score_range
    if scores == "regression":
        found = logits[:, 0].astype(np.float64)
    else:
        found = probabilities(logits) @ np.arange(low, high + 1)
    return np.clip(found, low, high) + 0.0  # which makes 0 of −0


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of logits [N, C], in float64."""
    logits = logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def write_predictions(
    directory: epath.Path, split: str, task: Task, predictions: np.ndarray, examples: Sequence[Example]
) -> None:
    """Writes SPLIT.tsv, or SPLIT_GROUP.tsv for each group: an index and a prediction a line, as GLUE wants them.

    Without examples there is no file. A class with a quotation mark in its name is quoted, as TSV readers expect it.

    Args:
        directory: is made where it is not there.
        split: "validation" or "test".
        task: gives the names of the classes.
        predictions: [N], as `predict_labels` gives them.
        examples: N, of whose groups each is numbered from 0.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for group in sorted({example.group for example in examples}):
        chosen = [
            named(task, prediction)
            for prediction, example in zip(predictions.tolist(), examples, strict=True)
            if example.group == group
        ]
        table = io.StringIO()
        lines = csv.writer(table, csv.excel_tab, lineterminator="\n")
        lines.writerows([("index", "prediction"), *enumerate(chosen)])
        write_whole(directory / f"{'_'.join(filter(None, (split, group)))}.tsv", table.getvalue())


def named(task: Task, prediction: float) -> str:
    """A prediction as the data set's files write it: a class or choice by its name there, a score to 3 decimals."""
    if task.score_range:
        return f"{prediction:.3f}"
    names = task.labels or task.answers
    return names[int(prediction)] if names else str(int(prediction))
