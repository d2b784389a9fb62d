"""What goes on inside a model while it reads a text: its states, its attention, what it expects next or in a blank.

Letters: B sequences, T positions, D width, L layers, H heads, N texts.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.arguments import check_ids, check_integer, check_several, check_text, shown
from gpt1_jax.devices.mesh import replicated
from gpt1_jax.errors import UserError
from gpt1_jax.model import output
from gpt1_jax.model.inside import read_inside
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training import stopping
from gpt1_jax.usage.notices import check_finite, warn_once
from gpt1_jax.usage.windows import Window, make_batches
from gpt1_jax.wording import counted

if TYPE_CHECKING:
    from gpt1_jax.usage.trained import TrainedRun

# The group of padding, which nothing attends to.
_PADDING = -1


class Guess(TypedDict):
    """A piece that may stand at a place of a text, and how probable it is there."""

    token_id: int
    text: str
    probability: float


def read_ids(trained: "TrainedRun", given: object) -> list[int]:
    """Returns the ids that the model reads: those given, or those of a text, for a BERT between [CLS] and [SEP].

    Raises:
        UserError: it is neither a text nor ids, or too long for the context.
    """
    tokenizer = trained.tokenizer
    if isinstance(given, str):
        ids = surround(trained, tokenizer.encode(check_text(given, "text")))
    else:
        ids = check_ids(given, "text", tokenizer.vocab_size)
    return _check_length(trained, ids)


def logits(trained: "TrainedRun", ids: object) -> np.ndarray:
    """Returns the logits at each id, see `TrainedRun.logits`."""
    checked = _check_length(trained, check_ids(ids, "ids", trained.tokenizer.vocab_size))
    tokens, groups, places = _lone(trained, checked)
    # Causal positions never see the padding behind them.
    needed = trained.documents.apart or not trained.config.model.causal
    with trained.on_mesh():
        found = trained.compiled(_make_logits)(
            trained.trunk_params, tokens, groups if needed else None, places
        )
        return check_finite(np.array(found[: len(checked)]))


def states(trained: "TrainedRun", text: object, layer: object) -> np.ndarray:
    """Returns the states behind a layer, see `TrainedRun.states`."""
    layers = check_transformer(trained, "The states of a layer").config.num_layers
    number = check_integer(layer, "layer")
    if not -layers - 1 <= number <= layers:
        raise UserError(
            f"layer={shown(layer)} is out of range; give 0, the embeddings, to {layers}, the last block, or -1 for "
            "the last."
        )
    found, _ = inside(trained, read_ids(trained, text))
    return check_finite(found[number])


def attention(trained: "TrainedRun", text: object) -> np.ndarray:
    """Returns the weights of attention, see `TrainedRun.attention`."""
    check_transformer(trained, "Attention")
    _, weights = inside(trained, read_ids(trained, text))
    return check_finite(weights)


def next_tokens(trained: "TrainedRun", text: object, n: object) -> list[Guess]:
    """Returns the most probable pieces behind a text, see `TrainedRun.next_tokens`."""
    output.check_continues(trained.config.model, "The next token of a text")
    ids = read_ids(trained, text)
    return _guesses(trained, trained.logits(ids)[-1], n)


def fill(trained: "TrainedRun", text: object, n: object) -> list[list[Guess]]:
    """Returns the most probable pieces in the blanks of a text, see `TrainedRun.fill`."""
    mask = trained.tokenizer.special_ids.get("mask")
    if trained.config.model.causal or mask is None:
        raise UserError(
            f"{trained.run.directory} has no model that fills blanks; name a run of a BERT (model.causal=False), or "
            "use next_tokens or generate."
        )
    ids = read_ids(trained, text)
    if mask not in ids:
        name = trained.tokenizer.decode([mask])
        raise UserError(f"text={shown(text)} has no {name}; write it where something is to be filled in.")
    logits = trained.logits(ids)
    return [_guesses(trained, logits[place], n) for place, id in enumerate(ids) if id == mask]


def embed(trained: "TrainedRun", texts: object) -> np.ndarray:
    """Returns a vector a text, see `TrainedRun.embed`."""
    if isinstance(texts, str):
        return embed(trained, [texts])[0]
    members = [
        check_text(member, f"text {number}")
        for number, member in enumerate(check_several(texts, "texts", "a text or a list of texts"), start=1)
    ]
    length, model = trained.config.model.context_length, trained.config.model
    sequences = [surround(trained, ids) for ids in map(trained.tokenizer.encode, members)]
    if cut := sum(len(ids) > length for ids in sequences):
        warn_once(f"{counted(cut, 'text')} of {len(members)} cut to the model's context of {length}")
        sequences = [surround(trained, ids, length) for ids in map(trained.tokenizer.encode, members)]
    vectors = np.zeros((len(members), model.d_model), np.float32)
    windows = [Window(number, 0, 0, len(ids)) for number, ids in enumerate(sequences) if ids]
    for batch in make_batches(windows, trained.bounds):
        stopping.check()
        numbers = [window.passage for window in batch.windows]
        tokens, groups = pad([sequences[number] for number in numbers], batch.rows, batch.width)
        with trained.on_mesh():
            found = np.asarray(trained.compiled(_make_mean_states)(trained.trunk_params, tokens, groups))
        vectors[numbers] = found[: len(numbers)]
    return check_finite(vectors)


def _make_logits(trained: "TrainedRun") -> Any:
    """Returns the compiled function (parameters, tokens, groups, places [B, T]) → row 0's logits, float32 [T, V]."""
    trunk = trained.trunk

    @jax.jit
    def logits(
        params: Any, tokens: jax.Array, groups: jax.Array | None, places: jax.Array | None
    ) -> jax.Array:
        hidden: Any = trunk.apply({"params": params}, tokens, None, None, groups, places)
        # Without the padding, as these numbers have always been computed, to the last bit.
        cut = {name: params[name][: trunk.vocab_size] for name in ("tokens", "output_bias") if name in params}
        return output.logits(trunk.config, {**params, **cut}, hidden[0].astype(jnp.float32), trunk.vocab_size)

    return logits


def _make_mean_states(trained: "TrainedRun") -> Any:
    """Returns the compiled function (parameters, tokens, groups [B, T]) → vectors of length 1, float32 [B, D]."""
    trunk = trained.trunk

    @partial(jax.jit, out_shardings=replicated(trained.mesh))
    def mean(params: Any, tokens: jax.Array, groups: jax.Array) -> jax.Array:
        # Causal positions never see the padding behind them.
        kept = None if trunk.config.causal else groups
        last: Any = trunk.apply({"params": params}, tokens, None, None, kept)
        real = (groups != _PADDING)[..., None]
        total = jnp.where(real, last.astype(jnp.float32), 0).sum(1)
        # A row that only fills the batch has no length.
        return total / jnp.maximum(jnp.linalg.norm(total, axis=-1, keepdims=True), 1e-12)

    return mean


def _make_inside(trained: "TrainedRun") -> Any:
    """Returns the compiled function (parameters, tokens, groups, places [B, T]) → what `read_inside` finds in row 0."""
    trunk = check_transformer(trained, "The inside of a model")

    @partial(jax.jit, out_shardings=replicated(trained.mesh))
    def inside(
        params: Any, tokens: jax.Array, groups: jax.Array, places: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        found, weights = read_inside(trunk, params, tokens, groups, places)
        return found[:, 0].astype(jnp.float32), weights[:, 0]

    return inside


def inside(trained: "TrainedRun", ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the states [L + 1, T, D] and the weights of attention [L, H, T, T] of one sequence."""
    length, (tokens, groups, places) = len(ids), _lone(trained, ids)
    with trained.on_mesh():
        found, weights = trained.compiled(_make_inside)(trained.trunk_params, tokens, groups, places)
        return np.array(found[:, :length]), np.array(weights[:, :, :length, :length])


def _lone(trained: "TrainedRun", ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns the tokens, groups and places [B, T] of one sequence, in rows of one of few widths."""
    (batch,) = make_batches([Window(0, 0, 0, len(ids))], trained.bounds)
    tokens, groups = pad([ids] * batch.rows, batch.rows, batch.width)
    apart, places = trained.documents.read(tokens) if trained.config.model.causal else (None, None)
    return tokens, groups if apart is None else np.where(groups == _PADDING, _PADDING, apart), places


def _check_length(trained: "TrainedRun", ids: list[int]) -> list[int]:
    length = trained.config.model.context_length
    if not 0 < len(ids) <= length:
        raise UserError(
            f"ids has {counted(len(ids), 'token')}, expected 1 to {length}, the model's context; cut it."
        )
    return ids


def pad(sequences: Sequence[Sequence[int]], rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens and groups, int32 [rows, width], with padding behind each sequence."""
    tokens, groups = np.zeros((rows, width), np.int32), np.full((rows, width), _PADDING, np.int32)
    for row, ids in enumerate(sequences):
        tokens[row, : len(ids)], groups[row, : len(ids)] = ids, 0
    return tokens, groups


def surround(trained: "TrainedRun", ids: Sequence[int], length: int | None = None) -> list[int]:
    """Returns the ids of a text as the model was trained on them; in a BERT behind [CLS] and before [SEP].

    Args:
        trained: the run.
        ids: the text's own.
        length: the most ids in all; the text's last ones are left out.
    """
    special = trained.tokenizer.special_ids
    if trained.config.model.causal or not {"cls", "sep"} <= special.keys():
        return [*ids[:length]]
    return [special["cls"], *ids[: None if length is None else length - 2], special["sep"]]


def _guesses(trained: "TrainedRun", logits: np.ndarray, n: object) -> list[Guess]:
    """Returns the `n` most probable pieces of logits [V]."""
    count, pieces = check_integer(n, "n"), trained.tokenizer.vocab_size
    if not 0 < count <= pieces:
        raise UserError(f"n={shown(n)} is out of range; give 1 to {pieces}, the tokenizer's pieces.")
    chances = np.exp(logits - logits.max(), dtype=np.float64)
    chances /= chances.sum()
    best = np.argsort(-chances, kind="stable")[:count].tolist()
    decode = trained.tokenizer.decode
    return [{"token_id": id, "text": decode([id]), "probability": float(chances[id])} for id in best]


def check_transformer(trained: "TrainedRun", wish: str) -> Transformer:
    if not isinstance(trained.trunk, Transformer):
        raise UserError(f"{wish} needs a Transformer, and this model is an LSTM; name another run.")
    return trained.trunk
