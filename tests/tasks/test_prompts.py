"""Templates and solved examples: what becomes of an example, and what is refused."""

from pathlib import Path

import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.prompts import read_template, with_shots
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.tasks.zero_shot import plain_ask

CHOICES = Task("choices", "choice", ("accuracy",), choices=2)
RTE = find_task("rte")


def template(tmp_path: Path, text: str, task: Task = RTE):
    (tmp_path / "a.txt").write_text(text)
    return read_template(str(tmp_path / "a.txt"), task)


def test_each_class_is_spelled_in_the_place_of_the_answer_with_the_space_before_it(tmp_path: Path) -> None:
    ask = template(tmp_path, "not_entailment = no\n---\n{premise}\nSo {hypothesis}? {answer}.\n")
    found = ask(RTE, Example(("It {rains}.", "it is wet"), 0))
    given = "It {rains}.\nSo it is wet?"
    assert found == [(given, " entailment."), (given, " no.")]


def test_choices_are_their_texts(tmp_path: Path) -> None:
    ask = template(tmp_path, "{context}\n{question}\n{choices}\nAnswer: {answer}", CHOICES)
    found = ask(CHOICES, Example(("It rained.", "Why?", "Clouds.", "Sun."), 0))
    given = "It rained.\nWhy?\nClouds.\nSun.\nAnswer:"
    assert found == [(given, " Clouds."), (given, " Sun.")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{premise}", "has no {answer}"),
        ("{premise} {answer} {answer}", "more than once"),
        ("{text} {answer}", "{text}"),
        ("maybe = yes\n---\n{premise} {answer}", "CLASS = WORD"),
    ],
)
def test_a_template_that_does_not_fit_the_task_is_told(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(UserError, match=r"--prompt_template=.*a\.txt") as error:
        template(tmp_path, text)
    assert reason in str(error.value)
    with pytest.raises(UserError, match="stsb has neither"):
        template(tmp_path, "{sentence1} {answer}", find_task("stsb"))


def test_solved_examples_come_first_always_the_same_with_their_right_answers() -> None:
    solved = [Example((f"Text {n}.", "", "Right.", "Wrong."), n % 2) for n in range(5)]
    ask = with_shots(plain_ask, CHOICES, solved, 3)
    example = Example(("It rained.", "", "Wet.", "Dry."), 0)
    (given, scored), (_, other) = ask(CHOICES, example)
    assert (scored, other) == (" Wet.", " Dry.")
    *shots, last = given.split("\n\n")
    assert last == "It rained." and len(set(shots)) == 3
    right = [f"Text {n}. {('Right.', 'Wrong.')[n % 2]}" for n in range(5)]
    assert set(shots) <= set(right)
    assert with_shots(plain_ask, CHOICES, solved, 3)(CHOICES, example)[0][0] == given
    with pytest.raises(UserError, match="--shots=6 is more than the 5"):
        with_shots(plain_ask, CHOICES, solved, 6)
