"""A task is data: what its examples are made of, how they become token sequences, how they are judged.

Letters: S sequences an example, T the model's context length, V the tokenizer's pieces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from gpt1_jax.errors import UserError
from gpt1_jax.model.specials import Specials

Kind = Literal["classification", "entailment", "similarity", "choice"]
Metric = Literal["accuracy", "f1", "matthews_correlation", "pearson", "spearman"]
Split = Literal["train", "validation", "test"]
Columns = Mapping[str, str | tuple[str, ...]]

# The texts that an example of each kind is made of, by the names a user gives them. `choices` is a list.
ROLES: dict[Kind, tuple[str, ...]] = {
    "classification": ("text",),
    "entailment": ("premise", "hypothesis"),
    "similarity": ("sentence1", "sentence2"),
    "choice": ("context", "question", "choices"),
}


class Example(NamedTuple):
    """One example.

    Fields:
        texts: the texts of its kind's ROLES in order; for choice (context, question, choice, choice, …), the
            question "" where there is none.
        label: the number of the class or of the right choice, from 0; a score; None where it is not known.
        group: the part of its split that it belongs to, such as "mismatched" of MNLI; "" where there are none.
    """

    texts: tuple[str, ...]
    label: int | float | None
    group: str = ""


@dataclass(frozen=True)
class Task:
    """One labeled task.

    Fields:
        name: as the config names it.
        kind: decides the transformation and the head.
        metrics: what it is judged by; the first one tells the best evaluation.
        labels: the names of the classes, in the order of their numbers; none for scores and choices.
        score_range: the lowest and highest score, for similarity that is scored.
        choices: how many an example has, for multiple choice.
        columns: the data set's own name of each role of ROLES[kind], and of "label", where it is another; of
            several columns the texts are joined by a space, or are the choices.
        answers: how the data set names the right choice, in the order of the choices; none where it tells its
            number, from 0, or its text.
        headline: the group whose metrics stand for the task, where its split has groups; "" is all.
        positive_label: the class of two whose F1 is reported; "" is the second.
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

    def to_dict(self) -> dict[str, Any]:
        """JSON types, of which `Task.from_dict` makes the task again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Task":
        """The task of `to_dict`."""
        fields: dict[str, Any] = {name: _frozen(value) for name, value in values.items()}
        fields["columns"] = {role: _frozen(names) for role, names in values["columns"].items()}
        return cls(**fields)

    @property
    def positive(self) -> int:
        """The number of the class whose F1 is reported."""
        return self.labels.index(self.positive_label) if self.positive_label else 1

    @property
    def sequences(self) -> int:
        """S: two for similarity (both orders), one a choice, else one."""
        return {"similarity": 2, "choice": self.choices}.get(self.kind, 1)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


def transform(
    kind: Kind, texts: Sequence[Sequence[int]], specials: Specials, context_length: int
) -> list[list[int]]:
    """The token sequences of an example (the paper's figure 1, right), each at most T long.

        classification   <s> text <e>
        entailment       <s> premise $ hypothesis <e>
        similarity       <s> a $ b <e> and <s> b $ a <e>
        choice           <s> context question $ choice <e>, one for each choice

    Start, delimiter and extract are never cut. A text too long is cut at its end; of two that do not fit
    together the longer one, no further than to half of the room. Multiple choice cuts the context only, at one
    place for all choices.

    Args:
        kind: the task's.
        texts: the ids of each of the example's texts.
        specials: start, delimiter, extract.
        context_length: T.

    Raises:
        UserError: a question and a choice leave no room in T, and they are never cut.
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
                f"take {fixed} tokens and three more; fine-tune a model with a longer context."
            )
        return [pair([*context[: room - fixed], *question], choice) for choice in choices]
    first, second = _fit(texts[0], texts[1], room)
    return [pair(first, second), pair(second, first)] if kind == "similarity" else [pair(first, second)]


def whole_length(kind: Kind, texts: Sequence[Sequence[int]]) -> int:
    """The length that the first sequence of `transform` has where nothing is cut."""
    return sum(map(len, texts[:3])) + (2 if kind == "classification" else 3)


def _fit(first: Sequence[int], second: Sequence[int], room: int) -> tuple[Sequence[int], Sequence[int]]:
    """Both texts cut so that together they take no more than `room`."""
    half = room // 2
    first_length = min(len(first), max(room - len(second), room - half))
    return first[:first_length], second[: room - first_length]
