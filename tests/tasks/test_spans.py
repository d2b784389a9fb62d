"""Spans: windows that hold every answer, answers by hand-made logits, and characters that come back."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
from test_encoding import Letters
from vocabulary_support import bert, gpt2

from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer, open_huggingface
from gpt1_jax.tasks.batches import assemble
from gpt1_jax.tasks.encoded import IN_NO_WINDOW, SPAN_NOT_KNOWN, EncodedExamples
from gpt1_jax.tasks.encoding import encode_examples
from gpt1_jax.tasks.predictions import predict
from gpt1_jax.tasks.spans import Answer
from gpt1_jax.tasks.task import Example, Label, Task

SQUAD = Task("any", "span", ("f1", "exact_match"), no_answer=True)
# A context of 20 words of one piece each, and where each begins.
WORDS = "abcdefghijklmnopqrst"
CONTEXT = " ".join(WORDS)


class Spaced(Letters):
    """Each letter is a piece, and spaces are none."""

    special_ids: ClassVar = {"cls": 30, "sep": 31}

    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace(" ", ""))


def asked(label: Label, context: str = CONTEXT) -> Example:
    return Example(("zz", context), label)


def at(first: str, last: str) -> tuple[tuple[int, int], ...]:
    """The label of the answer from one word of CONTEXT to another."""
    return ((CONTEXT.index(first), CONTEXT.index(last) + 1),)


def encode(examples: Sequence[Example], length: int = 64, causal: bool = True) -> EncodedExamples:
    return encode_examples(SQUAD, examples, Spaced(), length, "classes", causal)


def answers(
    examples: Sequence[Example], encoded: EncodedExamples, logits: Sequence[np.ndarray]
) -> list[Answer]:
    found = predict(SQUAD, examples, encoded, logits, Spaced(), "classes")
    return [*found]


def logits_of(encoded: EncodedExamples, row: int, **ends: Sequence[tuple[int, float]]) -> np.ndarray:
    """Logits 0 of a window but at the positions given for the beginning and for the end."""
    logits = np.zeros((2, encoded.lengths()[row]), np.float32)
    for number, name in enumerate(("begin", "end")):
        for place, value in ends[name]:
            logits[number, place] = value
    return logits


# ── Labels ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("causal", "place"), [(True, -1), (False, 0)])
def test_no_answer_has_both_ends_where_a_model_has_read_all(causal: bool, place: int) -> None:
    encoded = encode([asked(()), asked(at("c", "d"))], causal=causal)
    length = int(encoded.lengths()[0])
    assert encoded.labels.tolist() == [[place % length] * 2, [4 + 2, 4 + 3]]
    batch = assemble(encoded, np.arange(2), rows=2, width=32, batch=np.arange(2))
    assert batch.labels.shape == (2, 2, 32)
    assert batch.labels.argmax(-1).tolist() == encoded.labels.tolist()
    assert batch.label_weights.tolist() == [[0.25, 0.25]] * 2
    token = batch.tokens[0, 0, place % length]
    assert token == (Spaced.special_ids["cls"] if not causal else Spaced().vocab_size + 2)


def test_windows_begin_half_a_window_apart_and_each_piece_is_in_one() -> None:
    encoded = encode([asked(())], length=15)
    assert encoded.begins is not None and encoded.begins.tolist() == [0, 5, 10]
    assert encoded.lengths().tolist() == [15, 15, 15]


def test_windows_of_long_contexts_begin_128_pieces_apart() -> None:
    encoded = encode([asked((), " ".join(["a"] * 1000))], length=512)
    assert encoded.begins is not None and encoded.begins.tolist() == [0, 128, 256, 384, 512]


@pytest.mark.parametrize("length", [9, 15, 24])
def test_an_answer_lies_whole_in_a_window_or_is_marked_as_in_none(length: int) -> None:
    """The windows that have it are learned with it, and the others with no answer."""
    spans = [(first, last) for first in range(20) for last in range(first, 20)]
    examples = [asked(at(WORDS[first], WORDS[last])) for first, last in spans]
    encoded = encode(examples, length)
    assert encoded.owners is not None and encoded.begins is not None
    room, torn = length - 5, 0
    for owner, (first, last) in enumerate(spans):
        rows = np.flatnonzero(encoded.owners == owner)
        begins, labels = encoded.begins[rows], encoded.labels[rows]
        whole = (begins <= first) & (last < begins + room)
        if not whole.any():
            torn += 1
            assert (labels == IN_NO_WINDOW).all() and last - first >= room // 2
        else:
            expected = np.stack([first - begins + 4, last - begins + 4], 1)
            nothing = encoded.lengths()[rows][:, None] - 1
            assert np.array_equal(labels, np.where(whole[:, None], expected, nothing))
    told = [line for line in encoded.describe_cut(length) if "not learned" in line]
    assert (f"{torn:,} questions" in told[0]) if torn else not told


def test_an_unknown_answer_and_one_in_no_window_have_no_weight() -> None:
    encoded = encode([asked(None), asked(at("a", "t"))], length=15)
    assert set(encoded.labels.flatten().tolist()) == {SPAN_NOT_KNOWN, IN_NO_WINDOW}
    rows = np.arange(len(encoded))
    assert not assemble(encoded, rows, len(rows), 16, rows).label_weights.any()


def test_spaces_around_an_answer_do_not_make_it_none() -> None:
    (start, end), *_ = at("c", "d")
    assert encode([asked(((start - 1, end + 1),))]).labels.tolist() == [[6, 7]]


# ── Answers by hand-made logits ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("nothing", "text"), [(4.1, ""), (3.9, "c d")])
def test_no_answer_is_said_if_it_is_more_probable_than_the_best_span(
    causal: bool, nothing: float, text: str
) -> None:
    """Softmaxes of one window have one denominator, so the logits' sums decide: 2 · nothing against 5 + 3."""
    examples = [asked(None)]
    encoded = encode(examples, causal=causal)
    place = int(encoded.lengths()[0]) - 1 if causal else 0
    logits = logits_of(encoded, 0, begin=[(6, 5.0), (place, nothing)], end=[(7, 3.0), (place, nothing)])
    (answer,) = answers(examples, encoded, [logits])
    assert answer.text == text
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = chances[:, place].prod() if not text else chances[0, 6] * chances[1, 7]
    assert answer.probability == pytest.approx(expected, rel=1e-5)
    assert answer[1:3] == ((0, 0) if not text else at("c", "d")[0])


def test_without_unanswerable_questions_in_training_a_span_is_always_said() -> None:
    examples = [asked(None)]
    encoded = encode(examples)
    logits = logits_of(encoded, 0, begin=[(6, 5.0), (24, 9.0)], end=[(6, 3.0), (24, 9.0)])
    assert answers(examples, encoded, [logits])[0].text == ""
    task = Task("any", "span", ("f1",))
    assert next(iter(predict(task, examples, encoded, [logits], Spaced(), "classes"))).text == "c"


def test_the_window_with_the_answer_speaks_for_all_others() -> None:
    """Windows without the answer deny it; no answer is as probable as in the window where it is least so."""
    examples = [asked(None), asked(None)]
    encoded = encode(examples, length=15)
    logits = []
    for row, begin in enumerate(encoded.begins if encoded.begins is not None else []):
        if row == 2:  # p and q, of the first question
            places = {"begin": [(4 + 15 - begin, 6.0)], "end": [(4 + 16 - begin, 6.0)]}
        else:
            places = {"begin": [(14, 6.0), (4, 2.0)], "end": [(14, 6.0), (4, 2.0)]}
        logits.append(logits_of(encoded, row, **places))
    found = answers(examples, encoded, logits)
    assert [answer.text for answer in found] == ["p q", ""]
    assert found[0][1:3] == at("p", "q")[0]


def test_a_span_ends_behind_its_beginning_within_the_context_and_30_pieces() -> None:
    context = " ".join(["a"] * 40)
    examples = [asked(None, context)]
    encoded = encode(examples)
    task = Task("any", "span", ("f1",))

    def said(begin: list[tuple[int, float]], end: list[tuple[int, float]]) -> tuple[int, int]:
        logits = logits_of(encoded, 0, begin=begin, end=end)
        (answer,) = predict(task, examples, encoded, [logits], Spaced(), "classes")
        return answer.start // 2, answer.end // 2

    assert said([(4 + 9, 9.0)], [(4 + 2, 9.0), (4 + 11, 5.0)]) == (9, 11)
    assert said([(1, 9.0), (4 + 3, 5.0)], [(2, 9.0), (4 + 3, 5.0)]) == (3, 3)
    assert said([(4, 9.0)], [(4 + 29, 9.0)]) == (0, 29)
    assert said([(4, 9.0)], [(4 + 30, 9.0), (4 + 1, 3.0)]) == (0, 1)


def test_an_empty_context_has_no_answer() -> None:
    examples = [asked((), " "), asked(at("c", "c"))]
    encoded = encode(examples)
    logits = [np.zeros((2, length), np.float32) for length in encoded.lengths()]
    assert answers(examples, encoded, logits)[0][:3] == ("", 0, 0)


# ── Characters ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HuggingFaceTokenizer]:
    base = tmp_path_factory.mktemp("vocabularies")
    return {"gpt2": open_huggingface(gpt2(base / "gpt2")), "bert": open_huggingface(bert(base / "bert"))}


@pytest.mark.parametrize("name", ["gpt2", "bert"])
@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("Mme  Curie, née   Skłodowska, vécut à Paris.", "née   Skłodowska"),
        ("Ame\u0301lie  ate a cre\u0300me bru\u0302le\u0301e", "cre\u0300me bru\u0302le\u0301e"),
        ("(Ame\u0301lie), he\u0301?", "Ame\u0301lie"),
        ("हिन्दी भाषा  है", "भाषा"),
        ("\n\tIt cost\u00a0 $3.50  (about €3)!", "$3.50"),
        ("In 東京 it rains 😀 often", "東京"),
        ("Ελλάδα, ΑΘΉΝΑ", "ΑΘΉΝΑ"),
    ],
)
def test_an_answer_comes_back_letter_by_letter(
    published: dict[str, HuggingFaceTokenizer], name: str, context: str, answer: str
) -> None:
    """Logits that say the label give the characters of the label, whatever the tokenizer made of them."""
    start = context.index(answer)
    examples = [Example(("What?", context), ((start, start + len(answer)),))]
    encoded = encode_examples(SQUAD, examples, published[name], 64, "classes", causal=name == "gpt2")
    assert (encoded.labels > 0).all()
    logits, _ = encoded.head_labels(np.arange(1), int(encoded.lengths()[0]))
    (found,) = predict(SQUAD, examples, encoded, [9 * logits[0]], published[name], "classes")
    assert (found.text, found.start, found.end) == (answer, start, start + len(answer))


# ── BERT ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bert_reads_types_0_and_1_and_no_padding() -> None:
    """Types are 0 up to the first [SEP] and then 1; groups are -1 behind the end."""
    encoded = encode([asked((), "a b c"), asked((), "a")], causal=False)
    cls, sep, z = 30, 31, 25
    batch = assemble(encoded, np.arange(2), rows=3, width=10, batch=np.arange(2))
    assert batch.tokens[:2, 0].tolist() == [
        [cls, z, z, sep, 0, 1, 2, sep, 0, 0],
        [cls, z, z, sep, 0, sep, 0, 0, 0, 0],
    ]
    assert batch.types is not None and batch.groups is not None
    assert batch.types[:, 0].tolist() == [
        [0, 0, 0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0, 0, 0],
        [0] * 10,
    ]
    assert batch.groups[:, 0].tolist() == [[0] * 8 + [-1] * 2, [0] * 6 + [-1] * 4, [-1] * 10]


def test_pairs_of_a_bert_are_one_sequence_and_choices_one_each() -> None:
    pairs = Task("pairs", "similarity", ("f1",), labels=("other", "same"))
    choices = Task("choices", "choice", ("accuracy",), choices=2)
    for task, example, sequences, types in (
        (pairs, Example(("ab", "c"), 1), 1, [[0, 0, 0, 0, 1, 1, 0, 0]]),
        (choices, Example(("ab", "c", "d", "ef"), 0), 2, [[0] * 5 + [1, 1, 0], [0] * 5 + [1, 1, 1]]),
    ):
        encoded = encode_examples(task, [example], Spaced(), 16, "classes", causal=False)
        batch = assemble(encoded, np.arange(1), rows=1, width=8, batch=np.arange(1))
        assert batch.tokens.shape == (1, sequences, 8)
        assert batch.types is not None and batch.types[0].tolist() == types
