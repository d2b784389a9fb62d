"""Transformations: every task's token sequences literally, and what is cut where they do not fit."""

import json
import random
from typing import Any

import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.model.specials import Specials, special_ids
from gpt1_jax.tasks.task import ROLES, WHOLE_KINDS, Kind, Task, transform

SPECIALS = special_ids(100)
S, D, E = SPECIALS  # <s> = 100, $ = 101, <e> = 102
LONG = 1000  # a context in which nothing is cut


def cut(kind: Kind, lengths: list[int], context_length: int) -> list[list[int]]:
    """The lengths that texts of some lengths are left with: [first, second] of each sequence."""
    texts = [[number] * length for number, length in enumerate(lengths)]
    sequences = transform(kind, texts, SPECIALS, context_length)
    return [[sequence.count(number) for number in range(len(lengths))] for sequence in sequences]


# ── Layout ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_specials_are_the_three_ids_behind_the_vocabulary() -> None:
    assert special_ids(40_478) == Specials(start=40_478, delimiter=40_479, extract=40_480)


def test_classification_is_one_text() -> None:
    assert transform("classification", [[5, 6, 7]], SPECIALS, LONG) == [[S, 5, 6, 7, E]]


def test_entailment_is_the_premise_then_the_hypothesis() -> None:
    assert transform("entailment", [[5, 6], [7, 8, 9]], SPECIALS, LONG) == [[S, 5, 6, D, 7, 8, 9, E]]


def test_similarity_is_both_orders() -> None:
    assert transform("similarity", [[5, 6], [7]], SPECIALS, LONG) == [[S, 5, 6, D, 7, E], [S, 7, D, 5, 6, E]]


def test_multiple_choice_is_context_and_question_then_each_choice() -> None:
    context, question, choices = [5, 6], [7], [[8], [9, 10], [11, 12, 13], [14]]
    assert transform("choice", [context, question, *choices], SPECIALS, LONG) == [
        [S, 5, 6, 7, D, 8, E],
        [S, 5, 6, 7, D, 9, 10, E],
        [S, 5, 6, 7, D, 11, 12, 13, E],
        [S, 5, 6, 7, D, 14, E],
    ]


def test_multiple_choice_needs_no_question() -> None:
    assert transform("choice", [[5, 6], [], [8], [9]], SPECIALS, LONG) == [
        [S, 5, 6, D, 8, E],
        [S, 5, 6, D, 9, E],
    ]


def test_empty_texts_leave_the_specials() -> None:
    assert transform("classification", [[]], SPECIALS, LONG) == [[S, E]]
    assert transform("entailment", [[], []], SPECIALS, LONG) == [[S, D, E]]


@pytest.mark.parametrize(
    ("kind", "choices", "sequences"),
    [
        ("classification", 0, 1),
        ("entailment", 0, 1),
        ("similarity", 0, 2),
        ("choice", 2, 2),
        ("choice", 4, 4),
    ],
)
def test_each_kind_has_its_number_of_sequences(kind: Kind, choices: int, sequences: int) -> None:
    texts = [[1]] * (len(ROLES[kind]) + max(choices - 1, 0))
    assert len(transform(kind, texts, SPECIALS, LONG)) == sequences


# ── Truncation ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_too_long_loses_its_end() -> None:
    assert transform("classification", [[1, 2, 3, 4, 5, 6]], SPECIALS, 6) == [[S, 1, 2, 3, 4, E]]


def test_a_text_that_just_fits_is_whole() -> None:
    assert transform("classification", [[1, 2, 3, 4]], SPECIALS, 6) == [[S, 1, 2, 3, 4, E]]
    assert transform("entailment", [[1, 2], [3, 4, 5]], SPECIALS, 8) == [[S, 1, 2, D, 3, 4, 5, E]]


def test_of_two_texts_both_lose_their_ends() -> None:
    sequences = transform("similarity", [[1, 2, 3, 4], [5, 6, 7, 8]], SPECIALS, 7)
    assert sequences == [[S, 1, 2, D, 5, 6, E], [S, 5, 6, D, 1, 2, E]]


@pytest.mark.parametrize(
    ("lengths", "left"),
    [
        ([30, 4], [16, 4]),  # the long one alone, to what the short one leaves
        ([4, 30], [4, 16]),
        ([15, 6], [14, 6]),
        ([30, 10], [10, 10]),  # half each
        ([30, 30], [10, 10]),
        ([11, 10], [10, 10]),
        ([10, 30], [10, 10]),
        ([12, 8], [12, 8]),  # it fits
        ([20, 0], [20, 0]),
        ([30, 0], [20, 0]),
    ],
)
def test_of_two_texts_the_longer_is_cut_first_and_to_half(lengths: list[int], left: list[int]) -> None:
    room = 20
    assert cut("entailment", lengths, room + 3) == [left]
    assert cut("similarity", lengths, room + 3) == [left, left]


def test_only_the_context_of_a_choice_is_cut() -> None:
    context, question, choices = [1, 2, 3, 4, 5], [6, 7], [[8], [9, 10, 11]]
    assert transform("choice", [context, question, *choices], SPECIALS, 10) == [
        [S, 1, 2, 6, 7, D, 8, E],
        [S, 1, 2, 6, 7, D, 9, 10, 11, E],
    ]


def test_the_context_is_cut_alike_for_all_choices() -> None:
    """Otherwise the length of a choice would decide how much of the context its score is based on."""
    for sequence in cut("choice", [50, 3, 1, 9, 4, 2], 40):
        assert sequence[:2] == [40 - 3 - 3 - 9, 3]


def test_a_question_and_answer_may_fill_all_of_the_room() -> None:
    assert cut("choice", [50, 4, 6, 2], 13) == [[0, 4, 6, 0], [0, 4, 0, 2]]


def test_a_question_and_answer_without_room_are_refused() -> None:
    with pytest.raises(UserError, match=r"^model\.context_length=12 is too short .* take 10 tokens .*\.$"):
        cut("choice", [50, 4, 6, 2], 12)


@pytest.mark.parametrize("kind", WHOLE_KINDS)
def test_of_any_lengths_no_special_is_cut_and_nothing_more_than_must_be(kind: Kind) -> None:
    draw = random.Random(0)
    for _ in range(1000):
        context_length = draw.randrange(30, 60)
        if kind == "choice":
            lengths = [draw.randrange(80), draw.randrange(12), *(draw.randrange(1, 15) for _ in range(4))]
        else:
            lengths = [draw.randrange(80) for _ in ROLES[kind]]
        texts = [[draw.randrange(100) for _ in range(length)] for length in lengths]
        sequences = transform(kind, texts, SPECIALS, context_length)
        delimiters = 0 if kind == "classification" else 1
        for sequence in sequences:
            assert len(sequence) <= context_length
            assert sequence[0] == S and sequence.count(S) == 1
            assert sequence[-1] == E and sequence.count(E) == 1
            assert sequence.count(D) == delimiters
        parts = [_split(sequence) for sequence in sequences]
        if kind == "choice":
            context, question, *choices = texts
            kept = len(parts[0][0]) - len(question)
            assert [second for _, second in parts] == choices
            assert all(first == context[:kept] + question for first, _ in parts)
        else:
            assert all(part == text[: len(part)] for part, text in zip(parts[0], texts, strict=True))
            assert parts[1:] == ([parts[0][::-1]] if kind == "similarity" else [])
            kept = sum(map(len, parts[0]))
        wanted = sum(map(len, texts)) if kind != "choice" else lengths[0]
        assert kept == wanted or max(map(len, sequences)) == context_length  # cut only to fill the context


def _split(sequence: list[int]) -> list[list[int]]:
    """The texts of a sequence."""
    inner = sequence[1:-1]
    if D not in inner:
        return [inner]
    middle = inner.index(D)
    return [inner[:middle], inner[middle + 1 :]]


# ── Tasks ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "task",
    [
        Task("a", "classification", ("matthews_correlation", "accuracy"), labels=("0", "1")),
        Task("b", "similarity", ("pearson",), score_range=(0, 5), columns={"label": "score"}),
        Task(
            "c",
            "choice",
            ("accuracy",),
            choices=2,
            columns={"context": ("one", "two"), "choices": ("left", "right"), "label": "answer"},
            answers=("1", "2"),
        ),
        Task("d", "entailment", ("accuracy",), labels=("no", "yes"), headline="matched"),
    ],
    ids=lambda task: task.name,
)
def test_a_task_comes_back_from_json(task: Task) -> None:
    written: dict[str, Any] = json.loads(json.dumps(task.to_dict()))
    assert Task.from_dict(written) == task
    assert Task.from_dict(task.to_dict()) == task
