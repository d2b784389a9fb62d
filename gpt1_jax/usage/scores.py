"""How probable a language model finds texts: each of their tokens, each of their words, and continuations.

Letters: B sequences, T positions, D width, V rows of the token table, C context length, N alternatives.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.arguments import check_integer, check_several, shown
from gpt1_jax.data.packing import Packed, pack, shared_widths
from gpt1_jax.data.shapes import in_few_shapes
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.devices.mesh import replicated
from gpt1_jax.devices.overlap import overlapped
from gpt1_jax.errors import UserError
from gpt1_jax.model.embedding import project
from gpt1_jax.model.kernels.choice import keeps_apart
from gpt1_jax.model.losses import rows_at_once
from gpt1_jax.model.output import check_continues
from gpt1_jax.training import stopping
from gpt1_jax.usage.notices import check_finite
from gpt1_jax.usage.windows import (
    CHARACTERS_AT_ONCE,
    Passage,
    Request,
    check_request,
    cut,
    encode,
    group,
)
from gpt1_jax.usage.words import find_words
from gpt1_jax.wording import counted

if TYPE_CHECKING:
    from gpt1_jax.usage.trained import TrainedRun

_BITS = 1 / math.log(2)
# At most so many alternatives of a text are told, or held at once: 32 MiB of arrays, and as objects some 500 MB.
_ALTERNATIVES = 2**22


class WordScore(TypedDict):
    """A word of a text, as white space parts them.

    Attributes:
        text, start, end: the word, and which characters of the text it is.
        bits: its surprisal, −log₂ of its probability: the sum over its pieces; None if its first piece is the first
            of a text without anything before it.
    """

    text: str
    start: int
    end: int
    bits: float | None


class TextScore(TypedDict):
    """How probable a text is.

    Attributes:
        text, token_ids: the text and its ids.
        logprobs: the log-probability of each id after those before it, in nats. The first id comes after the
            tokenizer's end piece, as at the beginning of a document, or has None if there is no such piece.
        total: the sum of them.
        tokens, bytes: the number of ids, and of the text's bytes in UTF-8.
        bits_per_byte: −total in bits a byte; None for a text without bytes, and for one that decoding does not give
            back.
        words: the surprisal of each word.
        alternatives: for each id, the most probable pieces in its place with their log-probabilities.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float | None]
    total: float
    tokens: int
    bytes: int
    bits_per_byte: float | None
    words: list[WordScore]
    alternatives: NotRequired[list[list[list[str | float]]]]


class ContinuationScore(TypedDict):
    """How probable a continuation is after its context.

    Attributes:
        total: the sum of the log-probabilities of its tokens, in nats.
        tokens: the number of them.
        greedy: whether each of them was the most probable one.
    """

    total: float
    tokens: int
    greedy: bool


class Readings(NamedTuple):
    """What a model says of a passage's ids, each from the one before; the first has no values.

    Attributes:
        logprobs: float32 [T].
        greedy: bool [T], whether the id was the most probable one.
        ids, values: int32 and float32 [T, N], the most probable ids and their log-probabilities.
    """

    logprobs: np.ndarray
    greedy: np.ndarray
    ids: np.ndarray
    values: np.ndarray


def score(
    trained: "TrainedRun", texts: object, top: int = 0, stride: int | None = None
) -> list[Any] | TextScore | ContinuationScore:
    """Scores a text, a record, or a list of them, see `TrainedRun.score`."""
    scorer = Scorer(trained, top, stride)
    if isinstance(texts, str | Mapping):
        return next(scorer([check_request(texts)]))
    requests = []
    for number, member in enumerate(check_several(texts, "texts", "a text or a list of texts"), start=1):
        try:
            requests.append(check_request(member))
        except UserError as error:
            raise UserError(f"Text {number}: {error}") from error
    return [*scorer(requests)]


class Scorer:
    """Scores texts with a trained run, in groups, and within a group batched by length."""

    def __init__(
        self, trained: "TrainedRun", top: int = 0, stride: int | None = None, last_full: bool = False
    ) -> None:
        """Takes how texts are read.

        Args:
            trained: the run.
            top: the number of alternatives in each place.
            stride: how far windows lie apart in a text longer than the context; None is half a context.
            last_full: whether the last window reaches back, so that it has a whole context too.

        Raises:
            UserError: the model predicts no next token, or a number is out of range.
        """
        check_continues(trained.config.model, "A score")
        pieces, context = trained.tokenizer.vocab_size, trained.config.model.context_length
        self._top = check_integer(top, "top")
        if not 0 <= self._top <= pieces:
            raise UserError(f"top={shown(top)} is out of range; give 0 to {pieces}, the tokenizer's pieces.")
        # Behind the first window, each token then sees at least half of the context.
        self._stride = context // 2 if stride is None else check_integer(stride, "stride")
        if not 0 < self._stride <= context:
            raise UserError(
                f"stride={shown(stride)} is out of range; give 1 to {context}, the model's context."
            )
        self._trained, self._context, self._last_full = trained, context, last_full
        # Alternatives take memory, so that fewer tokens are in flight.
        each = max(1, self._top)
        self._characters = min(CHARACTERS_AT_ONCE, _ALTERNATIVES // each)
        self._rows = max(1, _ALTERNATIVES // (each * context))

    def __call__(self, requests: Iterable[Request]) -> Iterator[Any]:
        """Yields the score of each text or record in order, with few of them in memory at once."""
        for some in group(requests, self._characters):
            passages = encode(self._trained.tokenizer, self._context, some)
            for passage in passages:
                self._check_size(passage)
            for passage, readings in zip(passages, self._read(passages), strict=True):
                if isinstance(passage.request, str):
                    yield _describe_text(self._trained.tokenizer, passage, readings, self._top)
                else:
                    scored = check_finite(readings.logprobs[passage.first :])
                    greedy = bool(readings.greedy[passage.first :].all())
                    yield {"total": math.fsum(scored.tolist()), "tokens": len(scored), "greedy": greedy}

    def _check_size(self, passage: Passage) -> None:
        tokens = len(passage.ids)
        if tokens * self._top > _ALTERNATIVES:
            raise UserError(
                f"top={self._top} of a text of {counted(tokens, 'token')} asks for more than {_ALTERNATIVES:,} "
                "alternatives; give a smaller number, or the text in parts."
            )

    def _read(self, passages: Sequence[Passage]) -> list[Readings]:
        """Returns what the model says of each passage."""
        trained = self._trained
        found = [_blank(len(passage.ids), self._top) for passage in passages]
        windows = [
            window
            for number, passage in enumerate(passages)
            for window in cut(number, passage, self._context, self._stride, self._last_full)
        ]
        lengths = [window.stop - window.start for window in windows]
        together = keeps_apart(trained.trunk.config, trained.mesh)
        widths = shared_widths(lengths, self._context) if together else []
        batches = pack(lengths, partial(in_few_shapes, bounds=trained.bounds, most=self._rows), widths)
        readings = trained.compiled(_make_readings, self._top)

        def compute(packed: Packed) -> tuple[jax.Array, ...]:
            some = [windows[number] for number in packed.numbers.tolist()]
            tokens, targets = (
                packed.lay(
                    passages[passage].ids[start + shift : stop + shift] for passage, start, _, stop in some
                )
                for shift in (0, 1)
            )
            return readings(trained.trunk_params, tokens, targets, packed.groups(), packed.places())

        parts = overlapped(compute, stopping.checked(batches), trained.mesh)
        for packed, read in zip(batches, parts, strict=True):
            for number, row, first in zip(packed.numbers.tolist(), packed.rows, packed.starts, strict=True):
                passage, start, new, stop = windows[number]
                for kept, values in zip(found[passage], read, strict=True):
                    kept[new + 1 : stop + 1] = values[row, first + new - start : first + stop - start]
        return found


def _make_readings(trained: "TrainedRun", top: int) -> Any:
    """Returns the compiled function from (parameters, tokens, targets, groups, places [B, T]) to `Readings`' parts."""
    trunk = trained.trunk

    def part(table: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        hidden, targets = chunk
        logits = project(hidden, table)
        norm = jax.nn.logsumexp(logits, -1, keepdims=True)
        chosen = jnp.take_along_axis(logits, targets[..., None], -1)
        values, ids = jax.lax.top_k(logits, top) if top else (logits[..., :0], targets[..., None][..., :0])
        greedy = chosen[..., 0] >= logits.max(-1)
        return (chosen - norm)[..., 0], greedy, ids, values - norm

    @partial(jax.jit, out_shardings=replicated(trained.mesh))
    def readings(
        params: Any,
        tokens: jax.Array,
        targets: jax.Array,
        groups: jax.Array | None,
        places: jax.Array | None,
    ) -> tuple[jax.Array, ...]:
        states: Any = trunk.apply({"params": params}, tokens, None, None, groups, places)
        table = params["tokens"][: trunk.vocab_size].astype(states.dtype)
        rows, length = targets.shape
        # Not all logits are held at once.
        most = max(1, rows_at_once() // rows)
        chunk = max(size for size in range(1, length + 1) if length % size == 0 and size <= most)

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(rows, length // chunk, chunk, *x.shape[2:]).swapaxes(0, 1)

        parts = jax.lax.map(partial(part, table), (split(states), split(targets)))
        return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(rows, length, *x.shape[3:]), parts)

    return readings


# ── After the model ──────────────────────────────────────────────────────────────────────────────────────────


def _blank(length: int, top: int) -> Readings:
    return Readings(
        np.zeros(length, np.float32),
        np.zeros(length, bool),
        np.zeros((length, top), np.int32),
        np.zeros((length, top), np.float32),
    )


def _describe_text(tokenizer: Tokenizer, passage: Passage, readings: Readings, top: int) -> TextScore:
    """Returns what the model says of a text in the form that `score` returns."""
    text = passage.request
    assert isinstance(text, str)
    begun = tokenizer.end_id is not None
    ids = passage.ids[begun:]
    logprobs: list[Any] = check_finite(readings.logprobs)[begun:].tolist()
    if ids and not begun:
        logprobs[0] = None
    total, size = math.fsum(logprobs[not begun :]), len(text.encode())
    given_back = size and (tokenizer.exact or tokenizer.decode(ids) == text)
    described: TextScore = {
        "text": text,
        "token_ids": ids,
        "logprobs": logprobs,
        "total": total,
        "tokens": len(ids),
        "bytes": size,
        "bits_per_byte": -total * _BITS / size if given_back else None,
        "words": [
            {
                "text": text[word.start : word.end],
                "start": word.start,
                "end": word.end,
                "bits": _bits(logprobs[word.first : word.last]),
            }
            for word in find_words(tokenizer, text, ids)
        ],
    }
    if top:
        described["alternatives"] = [
            []
            if logprob is None
            else [[tokenizer.decode([id]), value] for id, value in zip(*pairs, strict=True)]
            for logprob, *pairs in zip(
                logprobs, readings.ids[begun:].tolist(), readings.values[begun:].tolist(), strict=True
            )
        ]
    return described


def _bits(logprobs: Sequence[float | None]) -> float | None:
    """Returns −log₂ of the probability of tokens, or None if one of them is not known."""
    known = [logprob for logprob in logprobs if logprob is not None]
    return -math.fsum(known) * _BITS if len(known) == len(logprobs) else None
