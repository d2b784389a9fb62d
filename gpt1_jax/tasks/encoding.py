"""Examples as arrays: the token sequences of a split in one table, and the targets of the head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.model.specials import special_ids
from gpt1_jax.tasks.task import Example, Task, transform, whole_length

ScoreForm = Literal["classes", "regression"]
# What an example's labels are: one class, choice or score; a class at each of some positions; the ends of a span.
LabelForm = Literal["whole", "tags", "spans"]
_TEXTS_AT_ONCE = 20_000


@dataclass(frozen=True, eq=False)
class EncodedExamples:
    """A tokenized split of a task, with N examples, S sequences each, and C outputs of the head.

    Attributes:
        tokens: all sequences, end to end.
        offsets: int64 [N · S + 1], where each sequence begins; sequence s of example n is number n · S + s.
        labels: what the head has to say. "whole": float32 [N, C], the target distribution, or in regression the target
            itself, and 0 if unknown. "tags": int32, for each of `tokens` the class at its place, -1 where there is
            none. "spans": int32 [N, 2], the first and the last position of a span, -1 if unknown.
        cut: int64 [N], the number of tokens in each example's texts that did not fit into the context.
        form: which of these the labels are.
        classes: C for tags.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    cut: np.ndarray
    form: LabelForm = "whole"
    classes: int = 0

    def __len__(self) -> int:
        return len(self.cut)

    @property
    def sequences(self) -> int:
        """S."""
        return (len(self.offsets) - 1) // max(len(self), 1)

    def lengths(self) -> np.ndarray:
        """Returns the length of each example's longest sequence, int64 [N]."""
        return np.diff(self.offsets).reshape(len(self), -1).max(-1)

    def sequence(self, example: int, number: int) -> np.ndarray:
        """Returns the tokens of one sequence."""
        start, stop = self.offsets[example * self.sequences + number :][:2]
        return self.tokens[start:stop]

    def places(self) -> np.ndarray:
        """Returns how many labels each example has, int64 [N]: the tags and ends that are known; otherwise one."""
        if self.form == "whole":
            return np.ones(len(self), np.int64)
        known = self.labels >= 0
        if self.form == "spans":
            return known.sum(-1)
        return np.diff(np.concatenate([[0], known.cumsum()])[self.offsets])

    def head_labels(self, numbers: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels of R examples in the form of the head's logits, padded to a width.

        Returns:
            float32 [R, P, C], and which places have a label, bool [R, P]; P is 1, the width or 2.
        """
        if self.form == "whole":
            return self.labels[numbers][:, None], np.ones((len(numbers), 1), bool)
        if self.form == "spans":
            found, outputs = self.labels[numbers], width
        else:
            found, outputs = np.full((len(numbers), width), -1), self.classes
            for row, number in zip(found, numbers.tolist(), strict=True):
                tags = self.labels[self.offsets[number] : self.offsets[number + 1]]
                row[: len(tags)] = tags
        return (found[..., None] == np.arange(outputs)).astype(np.float32), found >= 0

    def describe_cut(self, context_length: int) -> list[str]:
        """Returns a sentence on texts that were too long, or nothing if all fit."""
        examples = int(np.count_nonzero(self.cut))
        if not examples:
            return []
        return [
            f"{examples:,} of {len(self):,} examples are longer than the context of {context_length} tokens and were "
            f"cut, by {int(self.cut.sum()):,} tokens in all"
        ]


def encode_examples(
    task: Task, examples: Sequence[Example], tokenizer: Tokenizer, context_length: int, scores: ScoreForm
) -> EncodedExamples:
    """Tokenizes and transforms a split; a text that recurs, say in several questions, is tokenized once.

    Raises:
        UserError: a question and an answer do not fit into the model's context; the error gives the example's number.
    """
    specials = special_ids(tokenizer.vocab_size)
    kind = np.uint16 if tokenizer.vocab_size + len(specials) <= 2**16 else np.uint32
    parts, lengths, cut = [np.zeros(0, kind)], [], []
    for start in range(0, len(examples), _TEXTS_AT_ONCE):
        some = examples[start : start + _TEXTS_AT_ONCE]
        texts = list(dict.fromkeys(text for example in some for text in example.texts))
        ids = dict(zip(texts, (x.tolist() for x in tokenizer.encode_batch(texts, threads=16)), strict=True))
        for number, example in enumerate(some, start=start + 1):
            given = [ids[text] for text in example.texts]
            try:
                sequences = transform(task.kind, given, specials, context_length)
            except UserError as error:
                raise UserError(f"Example {number} of task {task.name}: {error}") from error
            parts.append(np.concatenate(sequences).astype(kind))
            lengths += map(len, sequences)
            cut.append(whole_length(task.kind, given) - len(sequences[0]))
    labels = np.zeros((len(examples), head_outputs(task, scores)), np.float32)
    for row, example in zip(labels, examples, strict=True):
        if example.label is not None:
            row[:] = _target(task, example.label, scores)
    return EncodedExamples(np.concatenate(parts), np.cumsum([0, *lengths]), labels, np.array(cut, np.int64))


def head_outputs(task: Task, scores: ScoreForm) -> int:
    """Returns C, the width of a label: the number of classes, choices or whole scores, or 1 for regression."""
    if task.score_range is None:
        return task.choices if task.kind == "choice" else len(task.labels)
    low, high = task.score_range
    return high - low + 1 if scores == "classes" else 1


def _target(task: Task, label: float, scores: ScoreForm) -> np.ndarray:
    """Returns a class or choice as one-hot, and a score as weights on the two nearest whole numbers.

    The encoding of scores is that of Tree-LSTM (Tai et al. 2015, section 5.2), as in the authors' utils.
    """
    if task.score_range is None:
        return np.eye(head_outputs(task, scores))[int(label)]
    low, high = task.score_range
    if scores == "regression":
        return np.array([label])
    return np.maximum(0, 1 - np.abs(np.arange(low, high + 1) - label))
