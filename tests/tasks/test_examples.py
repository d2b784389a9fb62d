"""From a record to an example: which names are taken, what is refused in one clause."""

from typing import Any

import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.examples import hold_out, make_examples, parse_example
from gpt1_jax.tasks.rows import Row
from gpt1_jax.tasks.task import Example, Task

STORY = {f"InputSentence{n}": f"Sentence {n}." for n in (1, 2, 3, 4)}
ENDINGS = {"RandomFifthSentenceQuiz1": "Good.", "RandomFifthSentenceQuiz2": "Bad."}


@pytest.mark.parametrize(
    ("task", "record", "texts"),
    [
        ("cola", {"text": "It  is\tso. ", "label": 7, "other": None}, ("It  is\tso.",)),
        ("cola", {"sentence": "It is so."}, ("It is so.",)),
        ("rte", {"premise": "a", "hypothesis": "b"}, ("a", "b")),
        ("rte", {"sentence2": "b", "sentence1": "a"}, ("a", "b")),
        ("qnli", {"question": "a?", "hypothesis": "b"}, ("a?", "b")),  # each role by either name
        ("qqp", {"question1": "a", "question2": ""}, ("a", "")),  # of which QQP has some
        ("stsb", {"sentence1": "a", "sentence2": "b"}, ("a", "b")),
        (
            "race",
            {"article": "long", "question": "why?", "options": ["a", "b", "c", "d"]},
            ("long", "why?", "a", "b", "c", "d"),
        ),
        ("race", {"context": "long", "choices": ["a", "b", "c", "d"]}, ("long", "", "a", "b", "c", "d")),
        (
            "story_cloze",
            STORY | ENDINGS,
            ("Sentence 1. Sentence 2. Sentence 3. Sentence 4.", "", "Good.", "Bad."),
        ),
        ("story_cloze", {"context": "So.", "choices": ["a", "b"]}, ("So.", "", "a", "b")),
        (
            "dprd",
            {"sentence": "Ann saw Eve; she", "pronoun": "she", "candidates": ["Ann", "Eve"]},
            ("Ann saw Eve; she", "she", "Ann", "Eve"),
        ),
        ("demo_next_verse", {"context": "So.", "choices": ["a", "b"]}, ("So.", "", "a", "b")),
    ],
)
def test_a_record_has_the_names_of_the_roles_or_of_the_data_set(
    task: str, record: dict[str, Any], texts: tuple[str, ...]
) -> None:
    assert parse_example(find_task(task), record) == Example(texts, None)


@pytest.mark.parametrize(
    ("task", "record", "told"),
    [
        ("cola", {}, r"expected 'sentence' \(its text\) .* found nothing"),
        ("rte", {"premise": "a", "b": "c"}, r"'sentence2' \(its hypothesis\) .* found 'premise', 'b'"),
        ("cola", {"text": 3}, "'text' is 3, expected a text"),
        ("cola", {"text": None}, "'text' is None"),
        ("cola", {"text": "\ud800"}, "surrogates"),  # half a pair, as JSON can spell it
        ("race", {"context": "a", "choices": ["a", "b", "c"]}, "3 choices, expected 4"),
        ("race", {"context": "a", "choices": "abcd"}, "'abcd', expected a list"),
        ("race", {"context": "a", "choices": ["a", "b", "c", 4]}, "'choices' is 4, expected a text"),
        ("dprd", {"sentence": "a", "candidates": ["a", "b"]}, r"'pronoun' \(its question\)"),
    ],
)
def test_what_is_no_example_is_told_in_a_clause(task: str, record: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        parse_example(find_task(task), record)
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")


CHOICE = Task("mine", "choice", ("accuracy",), choices=2)


@pytest.mark.parametrize(
    ("task", "label", "number"),
    [
        (find_task("cola"), "1 ", 1),
        (find_task("cola"), 0, 0),
        (find_task("mnli"), "contradiction", 2),
        (find_task("stsb"), "3.800", 3.8),
        (find_task("stsb"), 5, 5.0),
        (CHOICE, 1, 1),
        (CHOICE, "0", 0),
        (CHOICE, "yes", 1),
    ],
)
def test_labels_are_numbered(task: Task, label: Any, number: float) -> None:
    assert make_examples(task, [row(task, label)], "train")[0].label == number


@pytest.mark.parametrize(
    ("task", "label", "told"),
    [
        (find_task("cola"), "2", "'label' is '2', expected one of '0', '1'"),
        (find_task("cola"), None, "'label' is 'None', expected"),
        (find_task("rte"), "Entailment", "'Entailment', expected one of 'entailment', 'not_entailment'"),
        (find_task("stsb"), "5.1", "'score' is '5.1', expected a score from 0 to 5"),
        (find_task("stsb"), "nan", "expected a score"),
        (find_task("stsb"), [3], "expected a score"),
        (CHOICE, 2, "'label' is '2', expected one of 'no', 'yes'"),
        (CHOICE, "maybe", "expected one of 'no', 'yes'"),
    ],
)
def test_a_label_outside_the_set_is_told_with_its_row(task: Task, label: Any, told: str) -> None:
    with pytest.raises(UserError, match=f"line 3 of some file is no example of {task.name}: .*{told}"):
        make_examples(task, [row(task, label)], "train")


def test_a_label_that_is_one_choices_number_and_anothers_text_is_refused() -> None:
    for label, choices in (("1", ["1", "x"]), ("0", ["x", "0"])):
        fields = {"context": "a", "choices": choices, "label": label}
        with pytest.raises(UserError, match="number of one choice and the text of another"):
            make_examples(CHOICE, [Row("it", fields)], "train")
    fields = {"context": "a", "choices": ["x", "1"], "label": "1"}  # both are the second
    assert make_examples(CHOICE, [Row("it", fields)], "train")[0].label == 1


def test_only_test_examples_may_be_without_a_label() -> None:
    task = find_task("rte")
    for absent in ({}, {"label": ""}, {"label": None}):
        rows = [Row("it", {"sentence1": "a", "sentence2": "b"} | absent)]
        assert make_examples(task, rows, "test", group="g") == [Example(("a", "b"), None, "g")]
        with pytest.raises(UserError, match="'label'"):
            make_examples(task, rows, "validation")


def row(task: Task, label: Any) -> Row:
    texts: dict[str, Any] = {
        "text": "a",
        "premise": "a",
        "hypothesis": "b",
        "sentence1": "a",
        "sentence2": "b",
    }
    texts |= {"sentence": "a", "context": "c", "choices": ["no", "yes"]}
    column = task.columns.get("label", "label")
    assert isinstance(column, str)
    return Row("line 3 of some file", texts | {column: label})


@pytest.mark.parametrize(("count", "held_out"), [(1, [0]), (3, [2]), (10, [9]), (11, [9]), (25, [9, 19])])
def test_every_tenth_example_is_held_out_or_the_last_of_a_few(count: int, held_out: list[int]) -> None:
    examples = [Example((str(number),), 0) for number in range(count)]
    train, validation = hold_out(examples, 10)
    assert validation == [examples[number] for number in held_out]
    assert train == [example for example in examples if example not in validation]
    assert hold_out([], 10) == ([], [])
