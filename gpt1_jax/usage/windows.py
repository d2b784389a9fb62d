"""Cuts texts into windows that fit a model's context, and puts windows of similar length into batches.

Letters: C context length.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gpt1_jax.arguments import check_text, shown
from gpt1_jax.data.shapes import Bounds, in_few_shapes
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError

# A text, or the texts of a context and of its continuation.
Request = str | Mapping[str, str]

# Texts are scored in groups of at most so many, or so many characters, which limits memory.
_TEXTS_AT_ONCE = 512
CHARACTERS_AT_ONCE = 2**20


class Passage(NamedTuple):
    """Ids to be scored.

    Attributes:
        ids: what the model reads.
        first: the index of the first id that is scored, at least 1.
        request: the text, or the context and its continuation.
    """

    ids: list[int]
    first: int
    request: Request


class Window(NamedTuple):
    """A part of a passage that fits the context.

    Attributes:
        passage: the number of the passage.
        start, stop: the ids start:stop are read, and each of them predicts the one behind it.
        new: predictions of ids before this one are those of an earlier window.
    """

    passage: int
    start: int
    new: int
    stop: int


def check_request(value: object) -> Request:
    """Returns a text, or a record of a text or of a context and its continuation, as it is scored.

    Raises:
        UserError: it is neither.
    """
    if not isinstance(value, Mapping):
        return check_text(value, "text")
    if "text" in value:
        return check_text(value["text"], "text")
    if not {"context", "continuation"} <= value.keys():
        raise UserError(
            f'{shown(dict(value))} has neither "text" nor both "context" and "continuation"; give it one of these.'
        )
    return {field: check_text(value[field], field) for field in ("context", "continuation")}


def group(requests: Iterable[Request], most: int = CHARACTERS_AT_ONCE) -> Iterator[list[Request]]:
    """Groups texts and records so that a group fills batches or has so many characters, and no further: flat memory."""
    found: list[Request] = []
    characters = 0
    for request in requests:
        found.append(request)
        characters += len(request) if isinstance(request, str) else sum(map(len, request.values()))
        if len(found) == _TEXTS_AT_ONCE or characters > most:
            yield found
            found, characters = [], 0
    if found:
        yield found


def encode(tokenizer: Tokenizer, context: int, requests: Sequence[Request]) -> list[Passage]:
    """Returns the ids of texts and records, behind the tokenizer's end piece, as documents are in pre-training.

    White space at the end of a context counts as the continuation's, and both are encoded as one text, in which a
    word's first piece has the space before it. What is scored begins with the first piece that the context alone does
    not have, since a piece may spell the end of a context and the beginning of its continuation. A context that does
    not fit is cut at its beginning.

    Raises:
        UserError: a continuation has no token before it, not even an end piece.
    """
    begin = [] if tokenizer.end_id is None else [tokenizer.end_id]
    texts = []
    for request in requests:
        if isinstance(request, str):
            texts += [request, ""]
        else:
            texts += [request["context"] + request["continuation"], request["context"].rstrip()]
    encoded = [ids.tolist() for ids in tokenizer.encode_batch(texts, threads=16)]
    passages = []
    for request, whole, given in zip(requests, encoded[::2], encoded[1::2], strict=True):
        first = len(begin) + _common(whole, given)
        if not isinstance(request, str) and whole and not first:
            before, text = (shown(request[field]) for field in ("context", "continuation"))
            raise UserError(
                f"context={before} has no token before continuation={text}, and the tokenizer has no end piece to "
                "begin with; give a longer context."
            )
        # Only the first token of a text without an end piece before it has nothing to be predicted from.
        passage = Passage([*begin, *whole], max(1, first), request)
        surplus = min(len(passage.ids) - context - 1, passage.first - 1)
        if not isinstance(request, str) and surplus > 0:
            passage = passage._replace(ids=passage.ids[surplus:], first=passage.first - surplus)
        passages.append(passage)
    return passages


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns how many ids two sequences begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def cut(
    number: int, passage: Passage, context: int, stride: int, last_full: bool = False
) -> Iterator[Window]:
    """Yields windows of at most C ids that lie `stride` apart, up to the one that reaches the passage's end.

    With `last_full` that one has C ids too, of which more were read before.
    """
    start, new, end = 0, passage.first - 1, len(passage.ids) - 1
    while new < end:
        stop = min(start + context, end)
        if stop > new:
            yield Window(number, start, new, stop)
            new = stop
        start += stride
        if last_full:
            start = min(start, end - context)


class WindowBatch(NamedTuple):
    """Windows of similar length.

    Attributes:
        windows: the windows, a row each.
        rows: the number of rows, of which the last may be empty.
        width: the ids in a row.
    """

    windows: Sequence[Window]
    rows: int
    width: int


def make_batches(windows: Sequence[Window], bounds: Bounds) -> Iterator[WindowBatch]:
    """Yields batches of few shapes in all, see `data.shapes.in_few_shapes`."""
    lengths = [window.stop - window.start for window in windows]
    for numbers, rows, width in in_few_shapes(lengths, bounds):
        yield WindowBatch([windows[number] for number in numbers.tolist()], rows, width)
