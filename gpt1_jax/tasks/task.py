"""A task is data: it says what its examples consist of, how they become token sequences, and how they are scored.

Letters: S sequences per example, T the model's context length, V the number of the tokenizer's pieces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from gpt1_jax.errors import UserError
from gpt1_jax.model.specials import Specials
from gpt1_jax.wording import counted

Kind = Literal["classification", "entailment", "similarity", "choice", "tagging", "span", "completion"]
Metric = Literal[
    "accuracy",
    "f1",
    "matthews_correlation",
    "pearson",
    "spearman",
    "exact_match",
    "rouge1",
    "rouge2",
    "rougeL",
]
TaskSplit = Literal["train", "validation", "test"]
Columns = Mapping[str, str | tuple[str, ...]]

# The texts that make up an example of each kind, by the names that users give them. `choices` and `words` are lists.
ROLES: dict[Kind, tuple[str, ...]] = {
    "classification": ("text",),
    "entailment": ("premise", "hypothesis"),
    "similarity": ("sentence1", "sentence2"),
    "choice": ("context", "question", "choices"),
    "tagging": ("words",),
    "span": ("question", "context"),
    "completion": ("prompt",),
}
# The kinds whose label is one class, one choice or one score of the whole example.
WHOLE_KINDS: tuple[Kind, ...] = ("classification", "entailment", "similarity", "choice")
# What users call the label; "label" if nothing is said here.
_LABEL_NAMES: dict[Kind, str] = {"tagging": "tags", "span": "answers", "completion": "completion"}
Label = int | float | str | tuple[int, ...] | tuple[tuple[int, int], ...] | None


def label_name(kind: Kind) -> str:
    """Returns what users call the label of a kind."""
    return _LABEL_NAMES.get(kind, "label")


class Example(NamedTuple):
    """One example.

    Attributes:
        texts: the texts of its kind's ROLES in order; for choice (context, question, choice, choice, …), where a
            question that is absent is ""; for tagging the words.
        label: the number of the class or of the right choice, from 0; or a score; for tagging the number of each word's
            tag; for span where each accepted answer begins and ends in the context, in characters, and () if the
            context has none; for completion the text; None if unknown.
        group: the part of its split that it belongs to, such as "mismatched" in MNLI; "" if the split has no groups.
        id: the data set's name for it; "" if it has none.
    """

    texts: tuple[str, ...]
    label: Label
    group: str = ""
    id: str = ""


@dataclass(frozen=True)
class Task:
    """One labeled task.

    Attributes:
        name: the name that the config uses.
        kind: decides the transformation and the head.
        metrics: how predictions are scored; the first metric decides which evaluation is the best.
        labels: the names of the classes or tags, in the order of their numbers; empty for the other kinds.
        score_range: the lowest and the highest score, for similarity with scores.
        choices: the number of choices in an example, for multiple choice.
        columns: for each role of ROLES[kind] and for `label_name(kind)`, the data set's name for it, if that differs.
            If there are several columns, they are joined by a space, or they are the choices.
        answers: the data set's names for the right choice, in the order of the choices; empty if it uses the choice's
            number, from 0, or its text.
        headline: the group whose metrics stand for the task, if its split has groups; "" means all examples.
        positive_label: of two classes, the one whose F1 is reported; "" means the second.
        no_answer: whether a question may have no answer in its context.
    """

    name: str
    kind: Kind
    metrics: tuple[Metric, ...]
    labels: tuple[str, ...] = ()
    score_range: tuple[int, int] | None = None
    choices: int = 0
    columns: Columns = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    headline: str = ""
    positive_label: str = ""
    no_answer: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Returns the task as JSON types, which `Task.from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Task":
        """Makes a task from what `to_dict` returned."""
        fields: dict[str, Any] = {name: _frozen(value) for name, value in values.items()}
        fields["columns"] = {role: _frozen(names) for role, names in values["columns"].items()}
        return cls(**fields)

    @property
    def positive(self) -> int:
        """The number of the class whose F1 is reported."""
        return self.labels.index(self.positive_label) if self.positive_label else 1

    @property
    def whole(self) -> bool:
        """Whether a label is one class, one choice or one score of the whole example."""
        return self.kind in WHOLE_KINDS

    @property
    def counted_class(self) -> str | None:
        """The class whose F1 is reported, or None if the task has no such metric."""
        return self.labels[self.positive] if self.whole and "f1" in self.metrics else None


def _frozen(value: Any) -> Any:
    # JSON has no tuples.
    return tuple(value) if isinstance(value, list) else value


def transform(
    kind: Kind, texts: Sequence[Sequence[int]], specials: Specials, context_length: int
) -> list[list[int]]:
    """Returns the token sequences of an example of a whole kind (the paper's figure 1, right), each at most T long.

        classification   <s> text <e>
        entailment       <s> premise $ hypothesis <e>
        similarity       <s> a $ b <e> and <s> b $ a <e>
        choice           <s> context question $ choice <e>, one for each choice

    Start, delimiter and extract are never cut. A text that is too long is cut at its end. If two texts do not fit
    together, the longer one is cut first, down to half of the room, and then both. Multiple choice cuts only the
    context, at the same place for all choices.

    Args:
        kind: the task's kind.
        texts: the ids of each of the example's texts.
        specials: the ids of start, delimiter and extract.
        context_length: T.

    Raises:
        UserError: a question and a choice, which are never cut, do not fit into T.
    """
    start, delimiter, extract = specials

    def pair(first: Sequence[int], second: Sequence[int]) -> list[int]:
        return [start, *first, delimiter, *second, extract]

    if kind == "classification":
        return [[start, *texts[0][: context_length - 2], extract]]
    room = context_length - 3
    if kind == "choice":
        context, question, *choices = texts
        fixed = len(question) + max(map(len, choices))
        if fixed > room:
            raise UserError(
                f"model.context_length={context_length} is too short for an example whose question and answer "
                f"take {counted(fixed, 'token')} and three more; fine-tune a model with a longer context."
            )
        return [pair([*context[: room - fixed], *question], choice) for choice in choices]
    first, second = _cut_pair(texts[0], texts[1], room)
    return [pair(first, second), pair(second, first)] if kind == "similarity" else [pair(first, second)]


def whole_length(kind: Kind, texts: Sequence[Sequence[int]]) -> int:
    """Returns the length that the first sequence of `transform` would have if nothing were cut."""
    return sum(map(len, texts[:3])) + (2 if kind == "classification" else 3)


def _cut_pair(first: Sequence[int], second: Sequence[int], room: int) -> tuple[Sequence[int], Sequence[int]]:
    """Cuts two texts so that together they take at most `room`."""
    half = room // 2
    first_length = min(len(first), max(room - len(second), room - half))
    return first[:first_length], second[: room - first_length]
