"""What a run tells of its labels before it trains."""

from collections.abc import Sequence

import pytest

from gpt1_jax.tasks.summary import describe_labels
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
                "no training example has the label 'a', 'c', so that it cannot be learned",
                "all validation examples have the label 'c', so that their score says little",
            ],
        ),
        (
            SCORES,
            [1.5, 2],
            [0.5],
            [
                "scores from 0 to 5",
                "all validation examples have the label 0.5, so that their score says little",
            ],
        ),
    ],
)
def test_classes_and_what_is_lacking_are_told(
    task: Task, train: Sequence[float], validation: Sequence[float], told: list[str]
) -> None:
    assert describe(task, train, validation) == told


def test_many_classes_are_not_all_named() -> None:
    task = Task("many", "classification", ("accuracy",), labels=tuple(f"class {n:03}" for n in range(500)))
    (line,) = describe(task, range(500), range(500))
    assert line.endswith("'class 009' (1) and 490 more")
