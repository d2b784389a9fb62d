"""How a fine-tuned run judges its validation examples: a table of counts, or points, and the worst mistakes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

# Texts of examples are cut to this many characters.
_TEXT = 400
_WORST = 20
_MOST_POINTS = 500
# Words that are shown on each side of one.
_AROUND = 15


@dataclass(frozen=True)
class Mistake:
    """An example on which the model was wrong.

    Attributes:
        texts: the texts of the example, cut to a sane length.
        label, predicted: what is right, and what the model says.
        probability: the model's probability of its answer; None for scores and completions.
        right: the model's probability of the label; None for scores, answers in a context and completions.
    """

    texts: tuple[str, ...]
    label: str
    predicted: str
    probability: float | None
    right: float | None


@dataclass(frozen=True)
class Judged:
    """The judged validation examples.

    Attributes:
        step: the step whose parameters judged.
        counts: (label, predicted, how many) of classes, or of the tags of words.
        points: (label, predicted) of scores.
        mistakes: the worst mistakes, the worst first.
    """

    step: int
    counts: tuple[tuple[str, str, int], ...]
    points: tuple[tuple[float, float], ...]
    mistakes: tuple[Mistake, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the same as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Makes what `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: the values are not that.
        """
        return cls(
            step=int(values["step"]),
            counts=tuple((str(a), str(b), int(n)) for a, b, n in values["counts"]),
            points=tuple((float(a), float(b)) for a, b in values["points"]),
            mistakes=tuple(
                Mistake(**{**mistake, "texts": tuple(map(str, mistake["texts"]))})
                for mistake in values["mistakes"]
            ),
        )


def judge_classes(
    step: int,
    names: Sequence[str],
    labels: Sequence[int],
    probabilities: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
) -> Judged:
    """Judges predictions of classes.

    Args:
        step: the step whose parameters predict.
        names: the name of each class, or of each place of a choice.
        labels: [N], the number of the right class of each example.
        probabilities: [N, C].
        texts: [N], the texts of each example.
    """
    predicted = [max(range(len(row)), key=row.__getitem__) for row in probabilities]
    counts = Counter(zip(labels, predicted, strict=True))
    wrong = [i for i, (label, answer) in enumerate(zip(labels, predicted, strict=True)) if label != answer]
    wrong.sort(key=lambda i: probabilities[i][labels[i]])
    return Judged(
        step=step,
        counts=tuple((names[a], names[b], count) for (a, b), count in sorted(counts.items())),
        points=(),
        mistakes=tuple(
            Mistake(
                texts=_cut(texts[i]),
                label=names[labels[i]],
                predicted=names[predicted[i]],
                probability=round(float(probabilities[i][predicted[i]]), 6),
                right=round(float(probabilities[i][labels[i]]), 6),
            )
            for i in wrong[:_WORST]
        ),
    )


def judge_scores(
    step: int, labels: Sequence[float], predicted: Sequence[float], texts: Sequence[Sequence[str]]
) -> Judged:
    """Judges predictions of scores, [N] each; the worst are those farthest from their labels."""
    order = sorted(range(len(labels)), key=lambda i: -abs(labels[i] - predicted[i]))
    every = -(-len(labels) // _MOST_POINTS) or 1
    points = zip(labels, predicted, strict=True)
    return Judged(
        step=step,
        counts=(),
        points=tuple((float(a), round(float(b), 4)) for a, b in list(points)[::every]),
        mistakes=tuple(
            Mistake(_cut(texts[i]), f"{labels[i]:g}", f"{predicted[i]:.3g}", None, None)
            for i in order[:_WORST]
        ),
    )


def judge_tags(
    step: int,
    names: Sequence[str],
    labels: Sequence[Sequence[int]],
    probabilities: Sequence[Sequence[Sequence[float]]],
    sentences: Sequence[Sequence[str]],
) -> Judged:
    """Judges the tags of words, each a class of its own.

    Args:
        step: the step whose parameters predict.
        names: the name of each tag.
        labels: [N][words], the number of the right tag of each word.
        probabilities: [N][words, C].
        sentences: [N][words].
    """
    texts = [(_point(words, place),) for words in sentences for place in range(len(words))]
    flat = [tag for tags in labels for tag in tags]
    return judge_classes(step, names, flat, [row for rows in probabilities for row in rows], texts)


def judge_texts(step: int, mistakes: Sequence[Mistake]) -> Judged:
    """Returns what there is to say of answers that are texts: the mistakes, the worst first."""
    worst = []
    for mistake in mistakes[:_WORST]:
        label, predicted = _cut((mistake.label, mistake.predicted))
        worst.append(replace(mistake, texts=_cut(mistake.texts), label=label, predicted=predicted))
    return Judged(step, (), (), tuple(worst))


def _point(words: Sequence[str], place: int) -> str:
    """Returns a word in angle marks with those around it."""
    first = max(0, place - _AROUND)
    before, behind = words[first:place], words[place + 1 : place + 1 + _AROUND]
    return " ".join([*before, f"»{words[place]}«", *behind])


def _cut(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(text if len(text) <= _TEXT else text[:_TEXT] + "…" for text in texts)
