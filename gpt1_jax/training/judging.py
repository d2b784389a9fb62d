"""How a fine-tuned model judges its validation examples, for the page of its run."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt1_jax.pages.judged import Judged, Mistake, judge_classes, judge_scores, judge_tags, judge_texts
from gpt1_jax.tasks.answer_scores import span_scores, word_f1
from gpt1_jax.tasks.encoded import EncodedExamples
from gpt1_jax.tasks.encoding import ScoreForm
from gpt1_jax.tasks.predictions import Predictions, predict_labels, probabilities
from gpt1_jax.tasks.tagging import word_logits
from gpt1_jax.tasks.task import Example, Task

_NONE = "that there is no answer"
# Characters of a context that are shown, and how many of them before the answer.
_SHOWN, _BEFORE = 350, 120


class Outcome(NamedTuple):
    """What a model says of the N examples of a split.

    Attributes:
        predictions: [N].
        encoded: the examples, tokenized.
        logits: of the head, a row each of `encoded`; none for completions.
    """

    predictions: Predictions
    encoded: EncodedExamples
    logits: Sequence[np.ndarray]


def judge(
    step: int, task: Task, scores: ScoreForm, outcome: Outcome, examples: Sequence[Example]
) -> Judged | None:
    """Returns the labels beside what is predicted; None if there are no labels.

    Args:
        step: the step whose parameters predict.
        task: the task.
        scores: how scores are predicted, as `finetune.scores` says.
        outcome: what the model says.
        examples: the N examples; those without a label are left out.
    """
    labeled = [i for i, example in enumerate(examples) if example.label is not None]
    if not labeled:
        return None
    known: list[Any] = [examples[i].label for i in labeled]
    texts = [examples[i].texts for i in labeled]
    if task.kind == "tagging":
        words = word_logits(outcome.encoded, outcome.logits, len(examples))
        chances = [probabilities(words[i]).tolist() for i in labeled]
        return judge_tags(step, task.labels, known, chances, texts)
    if not task.whole:
        said: list[Any] = [outcome.predictions[i] for i in labeled]
        mistakes = (
            _wrong_spans(said, known, texts) if task.kind == "span" else _wrong_texts(said, known, texts)
        )
        return judge_texts(step, mistakes)
    if task.score_range is not None:
        predicted = predict_labels(task, outcome.logits, scores)[labeled]
        return judge_scores(step, [*map(float, known)], predicted.tolist(), texts)
    chances = probabilities(np.reshape(outcome.logits, (len(examples), -1)))[labeled]
    names = task.labels or tuple(map(str, range(chances.shape[1])))
    return judge_classes(step, names, [*map(int, known)], chances.tolist(), texts)


def _wrong_spans(answers: Sequence[Any], spans: Sequence[Any], texts: Sequence[Any]) -> list[Mistake]:
    """Returns the answers that are not exactly right, the surest first."""
    accepted = [
        [context[start:end] for start, end in some] for some, (_, context) in zip(spans, texts, strict=True)
    ]
    exact = span_scores([answer.text for answer in answers], accepted)["exact_match"]
    wrong = [number for number, right in enumerate(exact) if not right]
    return [
        Mistake(
            texts=(texts[i][0], _excerpt(texts[i][1], spans[i][0][0] if spans[i] else answers[i].start)),
            label=f"“{accepted[i][0]}”" if accepted[i] else _NONE,
            predicted=f"“{answers[i].text}”" if answers[i].text else _NONE,
            probability=round(answers[i].probability, 6),
            right=None,
        )
        for i in sorted(wrong, key=lambda i: -answers[i].probability)
    ]


def _wrong_texts(said: Sequence[str], right: Sequence[str], texts: Sequence[Any]) -> list[Mistake]:
    """Returns the completions that are not right, those first that share the fewest words with what is."""
    wrong = [
        i for i, (one, other) in enumerate(zip(said, right, strict=True)) if one.strip() != other.strip()
    ]
    return [
        Mistake(texts[i], f"“{right[i].strip()}”", f"“{said[i].strip()}”", None, None)
        for i in sorted(wrong, key=lambda i: word_f1(said[i], [right[i]]))
    ]


def _excerpt(context: str, place: int) -> str:
    """Returns the part of a context around a place."""
    first = max(0, place - _BEFORE)
    part = context[first : first + _SHOWN]
    return "…" * (first > 0) + part + "…" * (first + len(part) < len(context))
