"""Turns the head's outputs into predictions (a class, a choice or a score) and writes them as files name them."""

import csv
import io
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
from etils import epath

from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.tasks.encoding import ScoreForm, head_outputs
from gpt1_jax.tasks.task import Example, Task


class Prediction(TypedDict):
    """What a fine-tuned run says of an example.

    Attributes:
        label: a class's name; the number of a choice, from 0; a score.
        probabilities: of the classes or whole scores by their names, or of the choices in order; not of a score that
            was learned by regression.
    """

    label: str | int | float
    probabilities: NotRequired[dict[str, float] | list[float]]


def describe_prediction(task: Task, logits: np.ndarray, scores: ScoreForm) -> Prediction:
    """The prediction of one example from its logits [C]."""
    label = predict_labels(task, logits[None], scores)[0]
    chances = probabilities(logits).tolist()
    if task.score_range:
        if scores == "regression":
            return {"label": float(label)}
        low, high = task.score_range
        names = map(str, range(low, high + 1))
        return {"label": float(label), "probabilities": dict(zip(names, chances, strict=True))}
    if task.kind == "choice":
        return {"label": int(label), "probabilities": chances}
    return {"label": task.labels[label], "probabilities": dict(zip(task.labels, chances, strict=True))}


def predict_labels(task: Task, outputs: Sequence[np.ndarray] | np.ndarray, scores: ScoreForm) -> np.ndarray:
    """Returns what logits [N, 1, C] predict, [N]: the number of a class or choice, or a score in the task's range.

    Metrics, files and answers all use this function.
    """
    logits = np.reshape(outputs, (len(outputs), head_outputs(task, scores)))
    if task.score_range is None:
        return logits.argmax(-1)
    low, high = task.score_range
    if scores == "regression":
        found = logits[:, 0].astype(np.float64)
    else:
        found = probabilities(logits) @ np.arange(low, high + 1)
    # Adding 0.0 turns −0 into 0.
    return np.clip(found, low, high) + 0.0


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax of logits [N, C], in float64."""
    logits = logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def write_predictions(
    directory: epath.Path, split: str, task: Task, predictions: np.ndarray, examples: Sequence[Example]
) -> None:
    """Writes SPLIT.tsv, or SPLIT_GROUP.tsv for each group, with an index and a prediction per line, as in GLUE.

    If there are no examples, no file is written. The name of a class is quoted if it has a quotation mark, as TSV
    readers expect.

    Args:
        directory: where to write; it is made if it does not exist.
        split: "validation" or "test".
        task: names the classes.
        predictions: [N], as `predict_labels` returns them.
        examples: the N examples; each group is numbered from 0.
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
    """Spells a prediction as the data set's files write it: the name of a class or choice, or a score to 3 decimals."""
    if task.score_range:
        return f"{prediction:.3f}"
    names = task.labels or task.answers
    return names[int(prediction)] if names else str(int(prediction))
