"""What a run says about its labels before it trains."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from gpt1_jax.tasks.summary import describe_judged, describe_labels, describe_loss
from gpt1_jax.tasks.task import Example, Task

TWO = Task("two", "classification", ("accuracy", "f1"), labels=("ham", "spam"))
THREE = Task("three", "classification", ("accuracy",), labels=("a", "b", "c"))
SCORES = Task("scores", "similarity", ("pearson",), score_range=(0, 5))
CHOICES = Task("choices", "choice", ("accuracy",), choices=2)


def describe(task: Task, train: Sequence[float], validation: Sequence[float]) -> list[str]:
    return describe_labels(
        task, *([Example((), label) for label in labels] for labels in (train, validation))
    )


@pytest.mark.parametrize(
    ("task", "train", "validation", "told"),
    [
        (TWO, [0, 1, 1], [0, 1], ["classes to learn: 'ham' (1), 'spam' (2); f1 is that of 'spam'"]),
        (THREE, [0, 1, 2], [0, 1], ["classes to learn: 'a' (1), 'b' (1), 'c' (1)"]),
        (SCORES, [1.5, 2], [0.5, 4], ["scores from 0 to 5"]),
        (CHOICES, [0, 0], [0], []),
        (
            THREE,
            [1, 1],
            [2, 2],
            [
                "classes to learn: 'a' (0), 'b' (2), 'c' (0)",
                "no training example has the label 'a', 'c', so it cannot be learned",
                "all validation examples have the label 'c', so their score says little",
            ],
        ),
        (
            SCORES,
            [1.5, 2],
            [0.5],
            [
                "scores from 0 to 5",
                "all validation examples have the label 0.5, so their score says little",
            ],
        ),
    ],
)
def test_classes_and_what_is_lacking_are_told(
    task: Task, train: Sequence[float], validation: Sequence[float], told: list[str]
) -> None:
    assert describe(task, train, validation) == told


@pytest.mark.parametrize(
    ("task", "labels", "told"),
    [
        (TWO, [1, 1, None], ["all scored examples have the label 'spam', so their score says little"]),
        (SCORES, [2.0], ["all scored examples have the label 2.0, so their score says little"]),
        (TWO, [1, 0], []),
        (TWO, [None], []),
        (CHOICES, [0, 0], []),
    ],
)
def test_a_score_of_one_class_is_told(task: Task, labels: Sequence[float | None], told: list[str]) -> None:
    examples = [Example((), label) for label in labels]
    assert describe_judged(task, examples, "scored examples") == told


def test_many_classes_are_not_all_named() -> None:
    task = Task("many", "classification", ("accuracy",), labels=tuple(f"class {n:03}" for n in range(500)))
    (line,) = describe(task, range(500), range(500))
    assert line.endswith("'class 009' (1) and 490 more")


def test_text_that_the_tokenizer_loses_is_told_with_its_share() -> None:
    class Latin:
        exact = False

        def encode(self, text: str) -> list[int]:
            return [ord(character) if ord(character) < 256 else 0 for character in text]

        def decode(self, ids: list[int]) -> str:
            return "".join(map(chr, ids))

    examples = [Example(("four", "四四"), 0), Example(("four", "fo"), 1)]
    (line,) = describe_loss(cast(Any, Latin()), examples)
    assert line.startswith("the tokenizer loses 16.67% of the texts' characters")
    assert describe_loss(cast(Any, Latin()), examples[1:]) == []
