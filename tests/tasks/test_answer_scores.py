"""Exact match and F1 by the rules of SQuAD's official script, and ROUGE by its package."""

import time

import pytest

from gpt1_jax.tasks.answer_scores import completion_scores, exact_match, normalize, span_scores, word_f1
from gpt1_jax.tasks.intervals import score_interval
from gpt1_jax.tasks.scoring import score_predictions
from gpt1_jax.tasks.spans import Answer
from gpt1_jax.tasks.task import Example, Task

SPANS = Task("any", "span", ("f1", "exact_match"), no_answer=True)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The  Eiffel\tTower.", "eiffel tower"),
        ("a.m.", "am"),
        ("an apple, a pear", "apple pear"),
        ("theatre anthem", "theatre anthem"),
        ("the-end", "theend"),
        ("«Café»", "«café»"),
        ("$1,000.50", "100050"),
        ("A", ""),
    ],
)
def test_case_punctuation_articles_and_spaces_do_not_count(answer: str, normal: str) -> None:
    """Punctuation is that of ASCII and goes first, so that "a.m." is not an article; only whole words are articles."""
    assert normalize(answer) == normal


def test_exact_match_is_with_any_of_the_right_answers() -> None:
    assert exact_match("the Denver Broncos!", ["Carolina", "Denver broncos"]) == 1
    assert exact_match("Denver", ["Denver Broncos"]) == 0


@pytest.mark.parametrize(
    ("answer", "right", "f1"),
    [
        ("in Paris, France", ["Paris"], 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("Paris Paris", ["Paris"], 2 / 3),
        ("Lyon", ["Paris"], 0),
        ("Santa Clara", ["Levi's Stadium", "Santa Clara, California", "Clara"], 0.8),
        ("", ["Paris"], 0),
        ("Paris", [""], 0),
        ("the", [""], 1),
        ("", [""], 1),
    ],
)
def test_f1_counts_words_as_often_as_they_occur_against_the_nearest_answer(
    answer: str, right: list[str], f1: float
) -> None:
    assert word_f1(answer, right) == pytest.approx(f1)


def test_a_question_without_a_right_answer_wants_none() -> None:
    """An answer of which normalizing leaves nothing is no right one, as in the script of SQuAD 2.0."""
    scores = span_scores(["", "Paris", "", "the cat"], [[], [], ["the", "cat"], ["the", "cat"]])
    assert scores == {"exact_match": [1, 0, 0, 1], "f1": [1, 0, 0, 1]}


def question(context: str, *answers: str) -> Example:
    spans = tuple((context.index(answer), context.index(answer) + len(answer)) for answer in answers)
    return Example(("?", context), spans)


def test_a_split_of_questions_has_means() -> None:
    examples = [question("the red cat sat", "red cat"), question("no"), Example(("?", "x"), None)]
    said = [Answer("cat sat", 8, 15, 0.5), Answer("", 0, 0, 0.5), Answer("x", 0, 1, 0.5)]
    scores = score_predictions(SPANS, said, examples)
    assert scores == {"f1": 0.75, "exact_match": 0.5, "examples": 2}


def test_completions_match_letter_by_letter_but_for_spaces_around() -> None:
    scores = completion_scores(("exact_match",), [" yes ", "Yes", "no."], ["yes", "yes", "no"])
    assert scores == {"exact_match": [1, 0, 0]}


def test_rouge_is_that_of_its_package() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="ROUGE's package is not installed")
    said, right = ["the cat sat on the mat", "dogs", ""], ["a cat was on the mat", "a dog", "fish"]
    found = completion_scores(("rougeL", "rouge1", "exact_match"), said, right)
    assert set(found) == {"rougeL", "rouge1", "exact_match"}
    rouge = scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    for name in ("rouge1", "rougeL"):
        expected = [rouge.score(*pair)[name].fmeasure for pair in zip(right, said, strict=True)]
        assert found[name] == expected


# ── Intervals ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    examples = [question("one two", "one")] * 1000
    said = [Answer(text, 0, 3, 0.5) for text in ["one"] * 600 + ["one two"] * 300 + ["x"] * 100]
    begun = time.process_time()
    interval = score_interval(SPANS, said, examples)
    assert time.process_time() - begun < 1
    values = [1] * 600 + [2 / 3] * 300 + [0] * 100
    mean = sum(values) / 1000
    error = (sum((value - mean) ** 2 for value in values) / 1000 / 1000) ** 0.5
    assert interval == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.003)


def test_the_interval_of_entities_draws_sentences() -> None:
    """Half of the sentences have one entity, which is found, and half have three, of which none is."""
    tags = Task("any", "tagging", ("f1", "accuracy"), labels=("O", "B-X"))
    examples = [Example(("a", "b", "c"), (1, 0, 0)), Example(("a", "b", "c"), (1, 1, 1))] * 200
    said = [(1, 0, 0), (0, 0, 0)] * 200
    assert score_predictions(tags, said, examples) == {
        "f1": pytest.approx(2 / (2 + 3)),
        "accuracy": 0.5,
        "examples": 400,
    }
    low, high = score_interval(tags, said, examples) or (0, 0)
    assert 0.3 < low < 0.4 < high < 0.5
    assert score_interval(tags, [(1, 0, 0), (1, 1, 1)] * 200, examples) == (1, 1)
    assert score_interval(tags, [(0, 0, 0)] * 2, [Example(("a", "b", "c"), (0, 0, 0))] * 2) == (0, 0)
