"""From a record to an example: which names are taken, and what is refused in one clause."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.examples import find_columns, hold_out, make_examples, parse_example
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
        ("qnli", {"question": "a?", "sentence": "b", "hypothesis": "c"}, ("a?", "b")),  # its own names win
        ("cola", {"text": "a", "sentence": "b"}, ("b",)),
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
    columns = find_columns(find_task(task), [record])
    assert parse_example(find_task(task), record, columns) == Example(texts, None)


def test_records_beside_one_another_are_read_from_the_same_columns() -> None:
    """A record that lacks a column is not read from another one that is there by chance."""
    task = Task("mine", "classification", ("accuracy",), labels=("a", "b"), columns={"text": "body"})
    columns = find_columns(task, [{"text": "x"}, {"body": "y", "text": "z"}])
    assert parse_example(task, {"body": "y", "text": "z"}, columns).texts == ("y",)
    with pytest.raises(ValueError, match=r"expected 'body' \(its text\) among its columns, found 'text'"):
        parse_example(task, {"text": "x"}, columns)
    assert parse_example(task, {"text": "x"}, find_columns(task, [{"text": "x"}])).texts == ("x",)


@pytest.mark.parametrize(
    ("task", "record", "told"),
    [
        ("cola", {}, r"expected 'sentence' \(its text\) .* found nothing"),
        ("rte", {"premise": "a", "b": "c"}, r"'hypothesis' among .* found 'premise', 'b'"),
        ("rte", {"sentence1": "a", "hypothesis": "c"}, r"'sentence2' \(its hypothesis\)"),  # not half of each
        ("cola", {"text": 3}, "'text' is 3, expected a text"),
        ("cola", {"text": None}, "'text' is null"),
        ("cola", {"text": "\ud800"}, "surrogates"),  # half a pair, as JSON can spell it
        ("race", {"context": "a", "choices": ["a", "b", "c"]}, "3 choices, expected 4"),
        ("race", {"context": "a", "choices": "abcd"}, '"abcd", expected a list'),
        ("race", {"context": "a", "choices": ["a", "b", "c", 4]}, "'choices' is 4, expected a text"),
        ("dprd", {"sentence": "a", "candidates": ["a", "b"]}, r"'pronoun' \(its question\)"),
    ],
)
def test_what_is_no_example_is_told_in_a_clause(task: str, record: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        parse_example(find_task(task), record, find_columns(find_task(task), [record]))
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
        (find_task("cola"), None, "'label' is missing"),
        (find_task("rte"), "Entailment", "'Entailment', expected one of 'entailment', 'not_entailment'"),
        (find_task("stsb"), "5.1", "'score' is '5.1', expected a score from 0 to 5"),
        (find_task("stsb"), "-1", "'score' is '-1', expected a score from 0 to 5"),
        (find_task("stsb"), "nan", "'score' is 'nan', expected a score from 0 to 5"),
        (find_task("stsb"), [3], "expected a text or a number"),
        (find_task("stsb"), 10**400, "expected a score"),
        (CHOICE, 2, "'label' is '2', expected one of 'no', 'yes'"),
        (CHOICE, "maybe", "expected one of 'no', 'yes'"),
    ],
)
def test_a_label_outside_the_set_is_told_with_its_row(task: Task, label: Any, told: str) -> None:
    with pytest.raises(UserError, match=f"line 3 of some file is not an example of {task.name}: .*{told}"):
        make_examples(task, [row(task, label)], "train")


def test_a_label_that_is_one_choices_number_and_anothers_text_is_refused() -> None:
    for label, choices in (("1", ["1", "x"]), ("0", ["x", "0"])):
        fields = {"context": "a", "choices": choices, "label": label}
        with pytest.raises(UserError, match="number of one choice and the text of another"):
            make_examples(CHOICE, [Row("it", fields)], "train")
    fields = {"context": "a", "choices": ["x", "x"], "label": "x"}
    with pytest.raises(UserError, match="the text of 2 choices"):
        make_examples(CHOICE, [Row("it", fields)], "train")
    fields = {"context": "a", "choices": ["x", "1"], "label": "1"}  # both are the second
    assert make_examples(CHOICE, [Row("it", fields)], "train")[0].label == 1


def test_only_test_examples_may_be_without_a_label() -> None:
    task = find_task("rte")
    for absent in ({}, {"label": ""}, {"label": None}, {"label": " "}, {"label": math.nan}):
        rows = [Row("it", {"sentence1": "a", "sentence2": "b"} | absent)]
        assert make_examples(task, rows, "test", group="g") == [Example(("a", "b"), None, "g")]
        with pytest.raises(UserError, match=r"of rte: ('label' is missing|expected 'label' among)"):
            make_examples(task, rows, "validation")
    rows = [Row("it", {"sentence1": "a", "sentence2": "b", "label": "NaN"}, typed=False)]
    assert make_examples(task, rows, "test") == [Example(("a", "b"), None)]
    with pytest.raises(UserError, match="'label' is missing, as 'NaN' says"):
        make_examples(task, rows, "train")


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


# ── Held-out parts ───────────────────────────────────────────────────────────────────────────────────────────

CLASSES = find_task("mnli")
SCORES = find_task("stsb")
labels_of_rows = st.lists(st.sampled_from((0, 1, 2)), max_size=60)
frugal = settings(max_examples=60, deadline=None, derandomize=True)


def numbered(labels: Sequence[float]) -> list[Example]:
    return [Example((str(number),), label) for number, label in enumerate(labels)]


@pytest.mark.parametrize(("count", "held_out"), [(1, [0]), (3, [2]), (10, [9]), (11, [9]), (25, [9, 19])])
def test_by_a_split_seed_of_minus_one_every_tenth_is_held_out_or_the_last_of_a_few(
    count: int, held_out: list[int]
) -> None:
    examples = numbered([number % 2 for number in range(count)])
    train, validation = hold_out(CLASSES, examples, 10, -1)
    assert validation == [examples[number] for number in held_out]
    assert train == [example for example in examples if example not in validation]
    assert hold_out(CLASSES, [], 10, -1) == hold_out(CLASSES, [], 10, 0) == ([], [])


@frugal
@given(labels_of_rows, st.integers(2, 20), st.integers(-1, 2**32 - 1))
def test_both_parts_together_are_all_examples_in_their_order(
    labels: list[int], every: int, seed: int
) -> None:
    examples = numbered(labels)
    train, validation = hold_out(CLASSES, examples, every, seed)
    assert sorted(train + validation, key=examples.index) == examples
    assert train == sorted(train, key=examples.index)
    assert validation == sorted(validation, key=examples.index)


@frugal
@given(labels_of_rows, labels_of_rows, st.integers(2, 20), st.integers(0, 2**32 - 1))
def test_examples_that_are_appended_move_no_other_of_a_class_that_had_two(
    labels: list[int], more: list[int], every: int, seed: int
) -> None:
    counts = Counter(labels)
    before = hold_out(CLASSES, numbered(labels), every, seed)
    after = hold_out(CLASSES, numbered(labels + more), every, seed)
    for old, new in zip(before, after, strict=True):
        assert {x for x in old if counts[int(x.label or 0)] > 1} <= set(new)


@frugal
@given(labels_of_rows, st.integers(2, 20), st.integers(0, 2**32 - 1))
def test_a_class_is_in_both_parts_as_soon_as_it_has_two_examples(
    labels: list[int], every: int, seed: int
) -> None:
    train, validation = (
        Counter(x.label for x in part) for part in hold_out(CLASSES, numbered(labels), every, seed)
    )
    for label, count in Counter(labels).items():
        assert train[label] >= 1
        assert validation[label] == 0 if count < 2 else validation[label] >= 1
        assert abs(validation[label] - count / every) <= 1


@frugal
@given(st.lists(st.floats(0, 5), min_size=2, max_size=60), st.integers(0, 2**32 - 1))
def test_scores_are_drawn_from_all_together(scores: list[float], seed: int) -> None:
    train, validation = hold_out(SCORES, numbered(scores), 10, seed)
    assert abs(len(validation) - len(scores) / 10) <= 1 and train and validation


def test_alternating_labels_are_both_held_out_and_another_seed_draws_others() -> None:
    examples = numbered([0, 1] * 100)
    held_out = [hold_out(CLASSES, examples, 10, seed)[1] for seed in range(5)]
    for validation in held_out:
        assert Counter(example.label for example in validation) == {0: 10, 1: 10}
    assert all(one != other for one, other in itertools.combinations(held_out, 2))
    assert hold_out(CLASSES, examples, 10, 3)[1] == held_out[3]
    assert {example.label for example in hold_out(CLASSES, examples, 10, -1)[1]} == {1}


def test_every_place_of_a_block_is_drawn() -> None:
    validation = hold_out(CLASSES, numbered([0] * 5000), 10, 7)[1]
    drawn = Counter(int(example.texts[0]) % 10 for example in validation[1:])
    assert set(drawn) == set(range(10)) and max(drawn.values()) < 80
