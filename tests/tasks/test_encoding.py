"""Encoding: a split as one table of tokens and labels, and from the head's logits back to labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.tasks import encoding
from gpt1_jax.tasks.encoding import encode_examples, head_outputs
from gpt1_jax.tasks.predictions import predict_labels, probabilities
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.wording import counted

CLASSES = Task("classes", "classification", ("accuracy",), labels=("no", "maybe", "yes"))
PAIRS = Task("pairs", "similarity", ("f1",), labels=("other", "same"))
SCORES = Task("scores", "similarity", ("pearson",), score_range=(0, 5))
CHOICES = Task("choices", "choice", ("accuracy",), choices=3)


class Letters:
    """A tokenizer whose pieces are the letters, and which remembers what it was given."""

    def __init__(self, vocab_size: int = 26) -> None:
        self.vocab_size = vocab_size
        self.end_id = None
        self.given: list[str] = []

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[np.ndarray]:
        self.given += texts
        return [np.array(self.encode(text), np.int32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError

    def fingerprint(self) -> str:
        raise NotImplementedError

    def save(self, directory: Any) -> None:
        raise NotImplementedError


def label_row(task: Task, label: float | None, scores: encoding.ScoreForm = "classes") -> list[float]:
    """What the head is to say to an example of a label."""
    texts = ("a", "b", "c", "d", "e") if task.kind == "choice" else ("a", "b")
    encoded = encode_examples(task, [Example(texts, label)], Letters(), 32, scores)
    assert encoded.labels.dtype == np.float32
    return encoded.labels[0].tolist()


# ── Tokens ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_sequences_lie_one_after_the_other() -> None:
    examples = [Example(("ab", "c"), 1), Example(("d", ""), 0)]
    encoded = encode_examples(PAIRS, examples, Letters(), 32, "classes")
    assert encoded.tokens.tolist() == [
        *(26, 0, 1, 27, 2, 28),
        *(26, 2, 27, 0, 1, 28),
        *(26, 3, 27, 28),
        *(26, 27, 3, 28),
    ]
    assert encoded.offsets.tolist() == [0, 6, 12, 16, 20]
    assert encoded.labels.tolist() == [[0, 1], [1, 0]]
    assert len(encoded) == 2 and encoded.sequences == 2
    assert encoded.lengths().tolist() == [6, 4]
    assert encoded.sequence(0, 1).tolist() == [26, 2, 27, 0, 1, 28]
    assert encoded.sequence(1, 0).tolist() == [26, 3, 27, 28]


def test_the_length_of_an_example_is_its_longest_sequence() -> None:
    examples = [Example(("a", "", "b", "bcd", "bc"), 0), Example(("abc", "d", "e", "", ""), 0)]
    encoded = encode_examples(CHOICES, examples, Letters(), 32, "classes")
    assert encoded.sequences == 3
    assert encoded.lengths().tolist() == [7, 8]


def test_sequences_end_with_the_extract_token_in_a_context_of_any_length() -> None:
    encoded = encode_examples(CLASSES, [Example(("abcdefgh",), 0)], Letters(), 5, "classes")
    assert encoded.sequence(0, 0).tolist() == [26, 0, 1, 2, 28]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16 - 3, np.uint16), (2**16 - 2, np.uint32)])
def test_the_table_has_room_for_the_largest_special(vocab_size: int, dtype: type) -> None:
    encoded = encode_examples(CLASSES, [Example(("a",), 0)], Letters(vocab_size), 9, "classes")
    assert encoded.tokens.dtype == dtype
    assert encoded.tokens.tolist() == [vocab_size, 0, vocab_size + 2]


def test_a_document_with_several_questions_is_tokenized_once() -> None:
    tokenizer = Letters()
    examples = [Example(("document", question, "x", "y", "z"), 0) for question in ("which", "what", "who")]
    encoded = encode_examples(CHOICES, examples, tokenizer, 64, "classes")
    assert sorted(tokenizer.given) == sorted(["document", "which", "what", "who", "x", "y", "z"])
    assert encoded.sequence(2, 1).tolist() == [26, *tokenizer.encode("documentwho"), 27, 24, 28]


def test_many_examples_are_tokenized_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    words = ["".join(chr(97 + c) for c in generator.integers(0, 26, n)) for n in generator.integers(0, 9, 50)]
    examples = [Example((word,), None) for word in words]
    whole = encode_examples(CLASSES, examples, Letters(), 32, "classes")
    monkeypatch.setattr(encoding, "_TEXTS_AT_ONCE", 7)
    parts = encode_examples(CLASSES, examples, Letters(), 32, "classes")
    for field in ("tokens", "offsets", "labels"):
        np.testing.assert_array_equal(getattr(parts, field), getattr(whole, field))


def test_a_split_may_be_empty() -> None:
    encoded = encode_examples(CHOICES, [], Letters(), 32, "classes")
    assert len(encoded) == 0 and encoded.labels.shape == (0, 3)


@pytest.mark.parametrize("texts_at_once", [2, 20_000])
def test_an_example_that_does_not_fit_is_told_by_its_number(
    texts_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_TEXTS_AT_ONCE", texts_at_once)
    fits = Example(("abcdefghijk", "b", "c", "d", "e"), 0)
    long = Example(("a", "bcdefg", "hi", "j", "k"), 0)
    with pytest.raises(UserError, match=r"^Example 4 of task choices: model\.context_length=10 .*\.$"):
        encode_examples(CHOICES, [fits, fits, fits, long, fits], Letters(), 10, "classes")


# ── Labels ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_classes_and_choices_are_one_hot() -> None:
    assert label_row(CLASSES, 0) == [1, 0, 0]
    assert label_row(CLASSES, 2) == [0, 0, 1]
    assert label_row(PAIRS, 1) == [0, 1]
    assert label_row(CHOICES, 1) == [0, 1, 0]


def test_a_score_is_split_between_the_whole_scores_around_it() -> None:
    assert label_row(SCORES, 3.6) == pytest.approx([0, 0, 0, 0.4, 0.6, 0])
    assert label_row(SCORES, 0.25) == pytest.approx([0.75, 0.25, 0, 0, 0, 0])
    assert label_row(SCORES, 0) == [1, 0, 0, 0, 0, 0]
    assert label_row(SCORES, 5) == [0, 0, 0, 0, 0, 1]
    assert label_row(SCORES, 2) == [0, 0, 1, 0, 0, 0]


def test_scores_may_begin_elsewhere_than_at_zero() -> None:
    from_one = Task("from_one", "similarity", ("pearson",), score_range=(1, 3))
    assert label_row(from_one, 1) == [1, 0, 0]
    assert label_row(from_one, 2.5) == [0, 0.5, 0.5]


def test_in_regression_the_target_is_the_score() -> None:
    assert label_row(SCORES, 3.6, "regression") == pytest.approx([3.6])


@pytest.mark.parametrize("scores", ["classes", "regression"])
@pytest.mark.parametrize("task", [CLASSES, PAIRS, SCORES, CHOICES], ids=lambda task: task.name)
def test_an_unknown_label_is_zero_everywhere(task: Task, scores: encoding.ScoreForm) -> None:
    row = label_row(task, None, scores)
    assert row == [0] * head_outputs(task, scores)


def test_only_scores_have_two_forms() -> None:
    widths = {
        task.name: (head_outputs(task, "classes"), head_outputs(task, "regression"))
        for task in (CLASSES, PAIRS, SCORES, CHOICES)
    }
    assert widths == {"classes": (3, 3), "pairs": (2, 2), "scores": (6, 1), "choices": (3, 3)}


@pytest.mark.parametrize(
    ("task", "texts", "context_length", "cut"),
    [
        (CLASSES, ("abcdefgh",), 10, 0),
        (CLASSES, ("abcdefgh",), 8, 2),
        (PAIRS, ("abcdefgh", "abcd"), 12, 3),
        (CHOICES, ("abcdefgh", "ab", "a", "abc", "ab"), 12, 4),  # the context alone, once for all choices
        (CHOICES, ("abcdefgh", "ab", "abc", "a", "ab"), 16, 0),
    ],
)
def test_what_had_no_room_is_counted(
    task: Task, texts: tuple[str, ...], context_length: int, cut: int
) -> None:
    fits = Example(("a",) * len(texts), 0)
    encoded = encode_examples(task, [fits, Example(texts, 0), fits], Letters(), context_length, "classes")
    assert encoded.cut.tolist() == [0, cut, 0]
    told = encoded.describe_cut(context_length)
    assert len(told) == (cut > 0)
    for sentence in told:
        assert sentence == (
            f"longer than the context of {context_length} tokens, so cut: 1 of 3 examples, by {counted(cut, 'token')} "
            "in all"
        )


# ── Predictions ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_likeliest_class_or_choice_is_predicted() -> None:
    logits = np.array([[0.1, 0.3, 0.2], [5, -1, 2]], np.float32)
    for task in (CLASSES, CHOICES):
        assert predict_labels(task, logits, "classes").tolist() == [1, 0]


def test_the_expected_score_is_predicted() -> None:
    assert predict_labels(SCORES, np.log([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]]), "classes") == pytest.approx([1.5])
    assert predict_labels(SCORES, np.zeros((1, 6)), "classes") == pytest.approx([2.5])


@pytest.mark.parametrize("score_range", [(0, 5), (1, 4), (-2, 2)])
def test_a_split_score_comes_back_as_its_expectation(score_range: tuple[int, int]) -> None:
    task = Task("any", "similarity", ("pearson",), score_range=score_range)
    for score in np.linspace(*score_range, 23):
        target = np.array([label_row(task, float(score))])
        logits = np.log(np.maximum(target, 1e-30))
        assert predict_labels(task, logits, "classes") == pytest.approx([score], abs=1e-6)


def test_in_regression_the_output_within_the_range_is_the_prediction() -> None:
    logits = np.array([[3.5], [-1.0], [-0.0], [7.25]], np.float32)
    found = predict_labels(SCORES, logits, "regression")
    assert found.tolist() == [3.5, 0, 0, 5] and not np.signbit(found).any()


def test_probabilities_are_the_softmax_also_of_large_logits() -> None:
    logits = np.array([[0, 1, 2], [1000, 1001, 1002], [-1e4, 0, 1e4]], np.float32)
    values = probabilities(logits)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values[0], np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum(), rtol=1e-12)
    np.testing.assert_allclose(values[1], values[0], rtol=1e-12)
    np.testing.assert_array_equal(values[2], [0, 0, 1])
    np.testing.assert_allclose(values.sum(-1), 1, rtol=1e-12)
