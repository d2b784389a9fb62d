"""How a fine-tuned model judges its validation examples, for the page of its run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt1_jax.pages.judged import Judged, judge_classes, judge_scores
from gpt1_jax.tasks.encoding import ScoreForm
from gpt1_jax.tasks.predictions import predict_labels, probabilities
from gpt1_jax.tasks.task import Example, Task


def judge(
    step: int,
    task: Task,
    scores: ScoreForm,
    logits: Sequence[np.ndarray] | np.ndarray,
    examples: Sequence[Example],
) -> Judged | None:
    """Returns the labels beside what logits [N, 1, C] predict; None for tasks with many answers an example.

    Args:
        step: the step whose parameters predict.
        task: the task.
        scores: how scores are predicted, as `finetune.scores` says.
        logits: of the head.
        examples: the N examples; those without a label are left out.
    """
    labeled = [i for i, example in enumerate(examples) if example.label is not None]
    if not task.whole or not labeled:
        return None
    known: list[Any] = [examples[i].label for i in labeled]
    texts = [examples[i].texts for i in labeled]
    if task.score_range is not None:
        predicted = predict_labels(task, logits, scores)[labeled]
        return judge_scores(step, [*map(float, known)], predicted.tolist(), texts)
    chances = probabilities(np.reshape(logits, (len(examples), -1)))[labeled]
    names = task.labels or tuple(map(str, range(chances.shape[1])))
    return judge_classes(step, names, [*map(int, known)], chances.tolist(), texts)
