"""Spans: the answer to a question is a part of the context, as in SQuAD.

Letters: N rows, which are windows; T positions.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np

from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.tasks.encoded import IN_NO_WINDOW, SPAN_NOT_KNOWN, EncodedExamples, Table
from gpt1_jax.tasks.frames import Frame
from gpt1_jax.tasks.task import Example
from gpt1_jax.tasks.units import Piece, Units, written_units

# As in BERT's program for SQuAD.
_LONGEST_QUESTION = 64
_LONGEST_ANSWER = 30
_STRIDE = 128


class Answer(NamedTuple):
    """An answer: the text of the context from `start` to `end`, in characters; or none, then "", 0 and 0."""

    text: str
    start: int
    end: int
    probability: float


def encode_spans(
    examples: Sequence[Example], tokenizer: Tokenizer, frame: Frame, context_length: int
) -> EncodedExamples:
    """Makes the rows `start question delimiter context end`; a context that is too long is read in several windows.

    A causal model's question comes first, so that every state of the context has read it. At most 64 pieces of the
    question are kept, and at most half of the room. Windows begin 128 pieces apart, or half a window where that is
    less. A window that has not all of the answer is learned to have none, as long as another window has all of it. An
    answer that no window has all of, since it is longer than what two windows share, is not learned. Of several answers
    the first is learned, as in BERT's program, whose training questions have one.
    """
    questions = tokenizer.encode_batch([example.texts[0] for example in examples], threads=16)
    units = _units(tokenizer, examples)
    table = Table()
    for owner, (example, whole) in enumerate(zip(examples, questions, strict=True)):
        question = whole[: min(_LONGEST_QUESTION, (context_length - 3) // 2)].tolist()
        pieces = units.pieces(example.texts[1])
        room = context_length - 3 - len(question)
        first, cut, ends = 2 + len(question), len(whole) - len(question), _ends(example, pieces)
        begins = [*_window_begins(len(pieces), room)]
        found = [_within(ends, begin, room) for begin in begins]
        for begin, places in zip(begins, found, strict=True):
            window = pieces[begin : begin + room]
            ids = [frame.start, *question, frame.delimiter, *(piece.id for piece in window), frame.end]
            if ends is None:
                label = [SPAN_NOT_KNOWN] * 2
            elif ends and not any(found):
                label = [IN_NO_WINDOW] * 2
            else:
                label = [first + place for place in places] or [_no_answer(frame.both_ways, len(ids))] * 2
            table.add(ids, label, owner=owner, begin=begin, second=first, cut=cut)
    return table.encoded("spans", frame.both_ways)


def _units(tokenizer: Tokenizer, examples: Sequence[Example]) -> Units:
    contexts = dict.fromkeys(example.texts[1] for example in examples)
    return Units(tokenizer, (unit for context in contexts for unit, _ in written_units(context)))


def _window_begins(pieces: int, room: int) -> Iterator[int]:
    begin = 0
    yield begin
    while begin + room < pieces:
        begin += min(_STRIDE, max(room // 2, 1))
        yield begin


def _no_answer(both_ways: bool, length: int) -> int:
    """Returns the position that stands for no answer, where a model has read all: the first, or the last if causal."""
    return 0 if both_ways else length - 1


def _ends(example: Example, pieces: Sequence[Piece]) -> tuple[()] | tuple[int, int] | None:
    """Returns the first and the last piece of the first answer; () if there is none; None if that is not known.

    Of an answer whose characters the tokenizer drops, which no window can have, both are behind the last piece.
    """
    if not isinstance(example.label, tuple):
        return None
    if not example.label:
        return ()
    start, end = cast(tuple[int, int], example.label[0])
    inside = [number for number, piece in enumerate(pieces) if piece.start < end and piece.end > start]
    return (inside[0], inside[-1]) if inside else (len(pieces), len(pieces))


def _within(ends: tuple[int, ...] | None, begin: int, room: int) -> tuple[int, ...]:
    """Returns the ends of a span counted from the first piece of a window, or () if the window has not all of it."""
    places = tuple(end - begin for end in ends or ())
    return places if all(0 <= place < room for place in places) else ()


# ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────


def decode_spans(
    examples: Sequence[Example],
    encoded: EncodedExamples,
    outputs: Sequence[np.ndarray],
    tokenizer: Tokenizer,
    no_answer: bool,
) -> list[Answer]:
    """Returns the best answer to each question, over all of its windows.

    The probability of a span is that of its beginning times that of its end, each by a softmax over the window's
    positions. A span has at most 30 pieces. The probability of no answer is the least of those of the windows.

    Args:
        examples: the questions.
        encoded: their N windows.
        outputs: the logits of each window, [2, T].
        tokenizer: the one that they were encoded with.
        no_answer: whether "no answer" is allowed.
    """
    assert encoded.owners is not None and encoded.begins is not None and encoded.seconds is not None
    units = _units(tokenizer, examples)
    best = [Answer("", 0, 0, -1.0)] * len(examples)
    none = [1.0] * len(examples)
    pieces: list[Piece] = []
    last = -1
    for row, (owner, begin, first) in enumerate(
        zip(encoded.owners.tolist(), encoded.begins.tolist(), encoded.seconds.tolist(), strict=True)
    ):
        context = examples[owner].texts[1]
        if owner != last:
            pieces, last = units.pieces(context), owner
        chances = _softmax(outputs[row].astype(np.float64))
        place = _no_answer(encoded.both_ways, chances.shape[1])
        none[owner] = min(none[owner], float(chances[:, place].prod()))
        start, end, chance = _best_span(*chances[:, first:-1])
        if chance > best[owner].probability:
            left, right = pieces[begin + start].start, pieces[begin + end].end
            best[owner] = Answer(context[left:right], left, right, chance)
    return [
        Answer("", 0, 0, denied)
        if (no_answer and denied > answer.probability) or answer.probability < 0
        else answer
        for answer, denied in zip(best, none, strict=True)
    ]


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _best_span(begins: np.ndarray, ends: np.ndarray) -> tuple[int, int, float]:
    """Returns the most probable span of at most 30 pieces; its probability is -1 if there are no pieces."""
    best = (0, 0, -1.0)
    for more in range(min(_LONGEST_ANSWER, len(begins))):
        products = begins[: len(begins) - more] * ends[more:]
        start = int(products.argmax())
        if products[start] > best[2]:
            best = (start, start + more, float(products[start]))
    return best
