"""Tokenizes the examples of a split, and makes the sequences of them that the model reads."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.model.specials import Specials
from gpt1_jax.tasks.completions import encode_completions
from gpt1_jax.tasks.encoded import EncodedExamples
from gpt1_jax.tasks.frames import Frame, make_frame
from gpt1_jax.tasks.spans import encode_spans
from gpt1_jax.tasks.tagging import encode_tagging
from gpt1_jax.tasks.task import Example, Kind, Label, Task, transform, whole_length

ScoreForm = Literal["classes", "regression"]
_TEXTS_AT_ONCE = 20_000
# Stand for start, delimiter and extract until it is clear where the second text begins; no piece has such an id.
_MARKS = Specials(-1, -2, -3)


def encode_examples(
    task: Task,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    context_length: int,
    scores: ScoreForm,
    causal: bool = True,
) -> EncodedExamples:
    """Tokenizes and transforms a split; a text that recurs, say in several questions, is tokenized once.

    A model that reads both ways compares the two texts of similarity in one sequence.

    Raises:
        UserError: a question and an answer do not fit into the model's context; the error gives the example's number.
    """
    frame = make_frame(tokenizer, causal)
    if task.kind == "tagging":
        return encode_tagging(task, examples, tokenizer, frame, context_length)
    if task.kind == "span":
        return encode_spans(examples, tokenizer, frame, context_length)
    if task.kind == "completion":
        return encode_completions(examples, tokenizer, frame, context_length)
    kind: Kind = "entailment" if task.kind == "similarity" and frame.both_ways else task.kind
    dtype = np.uint16 if tokenizer.vocab_size + len(_MARKS) <= 2**16 else np.uint32
    parts, lengths, seconds, cut = [np.zeros(0, dtype)], [], [], []
    for start in range(0, len(examples), _TEXTS_AT_ONCE):
        some = examples[start : start + _TEXTS_AT_ONCE]
        texts = list(dict.fromkeys(text for example in some for text in example.texts))
        ids = dict(zip(texts, (x.tolist() for x in tokenizer.encode_batch(texts, threads=16)), strict=True))
        for number, example in enumerate(some, start=start + 1):
            given = [ids[text] for text in example.texts]
            try:
                sequences = transform(kind, given, _MARKS, context_length)
            except UserError as error:
                raise UserError(f"Example {number} of task {task.name}: {error}") from error
            for sequence in sequences:
                tokens, second = _framed(sequence, frame)
                parts.append(tokens.astype(dtype))
                lengths.append(len(tokens))
                seconds.append(second)
            cut.append(whole_length(kind, given) - len(sequences[0]))
    labels = np.zeros((len(examples), head_outputs(task, scores)), np.float32)
    for row, example in zip(labels, examples, strict=True):
        if example.label is not None:
            row[:] = _target(task, example.label, scores)
    return EncodedExamples(
        np.concatenate(parts),
        np.cumsum([0, *lengths]),
        labels,
        np.array(cut, np.int64),
        seconds=np.array(seconds, np.int64),
        both_ways=frame.both_ways,
    )


def _framed(sequence: list[int], frame: Frame) -> tuple[np.ndarray, int]:
    """Returns a sequence with a frame's tokens for the marks, and where its second text begins, or its length."""
    ids = np.array(sequence, np.int64)
    (delimiters,) = np.nonzero(ids == _MARKS.delimiter)
    for mark, token in zip(_MARKS, frame[:3], strict=True):
        ids[ids == mark] = token
    return ids, int(delimiters[0]) + 1 if len(delimiters) else len(ids)


def head_outputs(task: Task, scores: ScoreForm) -> int:
    """Returns the number of classes, choices, tags or whole scores; 1 for regression, 2 for the ends of a span."""
    if task.kind == "span":
        return 2
    if task.score_range is None:
        return task.choices if task.kind == "choice" else len(task.labels)
    low, high = task.score_range
    return high - low + 1 if scores == "classes" else 1


def _target(task: Task, label: Label, scores: ScoreForm) -> np.ndarray:
    """Returns a class or choice as one-hot, and a score as weights on the two nearest whole numbers.

    The encoding of scores is that of Tree-LSTM (Tai et al. 2015, section 5.2), as in the authors' utils.
    """
    assert isinstance(label, int | float)
    if task.score_range is None:
        return np.eye(head_outputs(task, scores))[int(label)]
    low, high = task.score_range
    if scores == "regression":
        return np.array([label])
    return np.maximum(0, 1 - np.abs(np.arange(low, high + 1) - label))
