"""Examples as arrays: the token sequences of a split in one table, and what the model has to say to each."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpt1_jax.wording import counted

# What labels are: one class, choice or score of a row; a class at each of some positions; the ends of a span; a text.
LabelForm = Literal["whole", "tags", "spans", "text"]
# In labels of the form "tags": a position without a word, and one whose word's tag is not known.
NO_WORD, NOT_KNOWN = -1, -2
# In labels of the form "spans": it is not known where the answer lies; all windows have only a part of it.
SPAN_NOT_KNOWN, IN_NO_WINDOW = -1, -2


@dataclass(frozen=True, eq=False)
class EncodedExamples:
    """A tokenized split of a task, with N rows, S sequences each, and C outputs of the head.

    A row is an example, or a window of one that is longer than the context.

    Attributes:
        tokens: all sequences, end to end.
        offsets: int64 [N · S + 1], where each sequence begins; sequence s of row n is number n · S + s.
        labels: what the model has to say. "whole": float32 [N, C], the target distribution, or in regression the target
            itself, and 0 if unknown. "tags": int32, for each of `tokens` the class of the word that is read there, or
            NO_WORD or NOT_KNOWN. "spans": int32 [N, 2], the first and the last position of a span, or SPAN_NOT_KNOWN
            or IN_NO_WINDOW. "text": int64 [N], the position from which on the next tokens are the completion.
        cut: int64 [N], the number of tokens in each row's texts that did not fit into the context.
        form: which of these the labels are.
        classes: C for tags.
        owners: int64 [N], the number of each row's example; None if each row is an example.
        begins: int64 [N], the word or the piece of the example that a window begins with; None without windows.
        seconds: int64 [N · S], where the second text of each sequence begins, or its length if it has only one; None if
            nobody asks.
        both_ways: whether the model reads both ways, and so takes token types and groups.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    cut: np.ndarray
    form: LabelForm = "whole"
    classes: int = 0
    owners: np.ndarray | None = None
    begins: np.ndarray | None = None
    seconds: np.ndarray | None = None
    both_ways: bool = False

    def __len__(self) -> int:
        return len(self.cut)

    @property
    def sequences(self) -> int:
        """S."""
        return (len(self.offsets) - 1) // max(len(self), 1)

    def lengths(self) -> np.ndarray:
        """Returns the length of each row's longest sequence, int64 [N]."""
        return np.diff(self.offsets).reshape(len(self), -1).max(-1)

    def sequence(self, row: int, number: int) -> np.ndarray:
        """Returns the tokens of one sequence."""
        start, stop = self.offsets[row * self.sequences + number :][:2]
        return self.tokens[start:stop]

    def tags(self, row: int) -> np.ndarray:
        """Returns the labels at the positions of a row, in the form "tags"."""
        return self.labels[self.offsets[row] : self.offsets[row + 1]]

    def places(self) -> np.ndarray:
        """Returns how many labels each row has, int64 [N]: the tags and ends that are known; otherwise one."""
        if self.form in ("whole", "text"):
            return np.ones(len(self), np.int64)
        known = self.labels >= 0
        if self.form == "spans":
            return known.sum(-1)
        return np.diff(np.concatenate([[0], known.cumsum()])[self.offsets])

    def head_labels(self, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels of R rows in the form of the head's logits, padded to a width.

        Returns:
            float32 [R, P, C], and which places have a label, bool [R, P]; P is 1, the width, 2, or 0 without a head.
        """
        if self.form == "whole":
            return self.labels[rows][:, None], np.ones((len(rows), 1), bool)
        if self.form == "text":
            return np.zeros((len(rows), 0, 0), np.float32), np.zeros((len(rows), 0), bool)
        if self.form == "spans":
            found, outputs = self.labels[rows], width
        else:
            found, outputs = np.full((len(rows), width), NO_WORD), self.classes
            for labels, row in zip(found, rows.tolist(), strict=True):
                tags = self.tags(row)
                labels[: len(tags)] = tags
        return (found[..., None] == np.arange(outputs)).astype(np.float32), found >= 0

    def first_target(self, row: int) -> int:
        """Returns the position from which on the next tokens of a row are learned by the language model."""
        return int(self.labels[row]) if self.form == "text" else 0

    def describe_cut(self, context_length: int) -> list[str]:
        """Returns sentences on texts that were too long, or nothing if all fit."""
        lines = []
        if self.owners is not None and (
            several := np.count_nonzero(np.unique(self.owners, return_counts=True)[1] > 1)
        ):
            lines.append(
                f"longer than the context of {counted(context_length, 'token')}, so read in several windows: "
                f"{several:,} of {counted(int(self.owners.max()) + 1, 'example')}"
            )
        if torn := self._torn():
            lines.append(
                f"not learned, since no window has all of the answer: {counted(torn, 'question')}; an answer is longer "
                "than what two windows share, or the tokenizer drops its characters"
            )
        if rows := int(np.count_nonzero(self.cut)):
            lines.append(
                f"longer than the context of {counted(context_length, 'token')}, so cut: {rows:,} of "
                f"{counted(len(self), 'example' if self.owners is None else 'window')}, by "
                f"{counted(int(self.cut.sum()), 'token')} in all"
            )
        return lines

    def _torn(self) -> int:
        """Returns the number of questions whose answer lies whole in no window."""
        if self.form != "spans" or self.owners is None:
            return 0
        return len(np.unique(self.owners[self.labels[:, 0] == IN_NO_WINDOW]))


class Table:
    """The rows of a split while they are made."""

    def __init__(self) -> None:
        """Makes a table without rows."""
        self.sequences: list[np.ndarray] = []
        self.labels: list[list[int]] = []
        self.owners: list[int] = []
        self.begins: list[int] = []
        self.seconds: list[int] = []
        self.cut: list[int] = []

    def add(
        self, ids: list[int], labels: list[int], *, owner: int, begin: int = 0, second: int = 0, cut: int = 0
    ) -> None:
        """Adds a row, whose attributes are those of `EncodedExamples`."""
        self.sequences.append(np.array(ids, np.uint32))
        self.labels.append(labels)
        for values, value in zip(
            (self.owners, self.begins, self.seconds, self.cut),
            (owner, begin, second or len(ids), cut),
            strict=True,
        ):
            values.append(value)

    def encoded(self, form: LabelForm, both_ways: bool, classes: int = 0) -> EncodedExamples:
        """Returns the rows as arrays."""
        flat = np.concatenate([np.zeros(0, np.uint32), *self.sequences])
        if form == "tags":
            labels = np.concatenate(
                [np.zeros(0, np.int32), *(np.array(row, np.int32) for row in self.labels)]
            )
        else:
            width = 2 if form == "spans" else 1
            labels = np.array(self.labels, np.int32).reshape(-1, width)
        return EncodedExamples(
            flat,
            np.cumsum([0, *map(len, self.sequences)]),
            labels[:, 0] if form == "text" else labels,
            np.array(self.cut, np.int64),
            form,
            classes,
            np.array(self.owners, np.int64),
            np.array(self.begins, np.int64),
            np.array(self.seconds, np.int64),
            both_ways,
        )
