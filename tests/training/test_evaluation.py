"""Evaluation: the mean over every held-out token but the first, counted once, in any batches."""

import math

import jax
import numpy as np
import pytest
from support import tiny_config, use_mesh
from training_support import VOCAB_SIZE, make_parts, make_split, place

from gpt1_jax.data.batches import EvaluationBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training.evaluation import bits_per_byte, make_evaluate, perplexity, score_text
from gpt1_jax.training.objectives import language_model_loss

CONFIG = tiny_config(**{"model.num_layers": 1})
LENGTH = CONFIG.model.context_length


@pytest.fixture(scope="module")
def params() -> dict[str, np.ndarray]:
    """Parameters ten times larger than fresh ones, so that tokens' losses differ."""
    with use_mesh() as mesh:
        return jax.tree.map(lambda x: 10 * np.array(x), make_parts(CONFIG, mesh).state.params)


def measure(params: dict[str, np.ndarray], split: Split, size: int, num_batches: int = 0) -> float:
    with use_mesh() as mesh:
        loss = language_model_loss(Transformer(CONFIG.model, VOCAB_SIZE), dropout=False)
        batches = EvaluationBatches(split, batch_size=size, context_length=LENGTH)
        placed = place(params, make_parts(CONFIG, mesh).trainer.abstract.params)
        return make_evaluate(loss, mesh)(placed, batches, num_batches).loss


def directly(params: dict[str, np.ndarray], split: Split) -> np.ndarray:
    """−log p of every token but the first, window by window, from whole logits and NumPy's own softmax."""
    stream, losses = split.read(0, len(split)), []
    with use_mesh():
        model = Transformer(CONFIG.model, VOCAB_SIZE)
        hidden = jax.jit(lambda tokens: model.apply({"params": params}, tokens))
        for start in range(0, len(stream) - 1, LENGTH):
            window = stream[start : start + LENGTH + 1]
            tokens = np.pad(window[:-1], (0, LENGTH + 1 - len(window)))
            logits = np.array(hidden(tokens[None]), np.float64)[0] @ params["tokens"][:VOCAB_SIZE].T
            logits -= logits.max(-1, keepdims=True)
            log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            losses.append(-log_p[np.arange(len(window) - 1), window[1:]])
    return np.concatenate(losses)


@pytest.mark.parametrize(
    ("tokens", "size"),
    [
        (2, 8),  # one target
        (16 * 8 + 1, 8),  # nothing ragged
        (16 * 8 + 2, 8),  # one target in the last window, of the last batch
        (333, 3),
    ],
)
def test_the_loss_is_the_mean_over_all_tokens(params: dict[str, np.ndarray], tokens: int, size: int) -> None:
    split = make_split(tokens)
    losses = directly(params, split)
    assert len(losses) == tokens - 1
    assert measure(params, split, size) == pytest.approx(losses.mean(), rel=1e-5)


def test_fewer_batches_are_a_part_and_more_than_there_are_the_whole(params: dict[str, np.ndarray]) -> None:
    split = make_split(333)
    whole = measure(params, split, 8)
    assert measure(params, split, 8, num_batches=100) == whole
    part = measure(params, split, 8, num_batches=1)
    assert part != whole and part == pytest.approx(whole, rel=0.5)


def test_a_text_has_bits_per_byte_unless_the_tokenizer_lost_some_of_it() -> None:
    tokens = np.zeros(11, np.uint16)
    whole = Split((tokens,), documents=1, bytes=40, compared=40)
    scores = score_text(1.5, [whole, whole])
    assert scores == {
        "loss": 1.5,
        "perplexity": pytest.approx(math.exp(1.5)),
        "bits_per_byte": pytest.approx(1.5 * 20 / math.log(2) / 80),
    }
    damaged = Split((tokens,), documents=1, bytes=40, compared=40, lost=1)
    assert score_text(1.5, [whole, damaged]).keys() == {"loss", "perplexity"}


def test_bits_per_byte_are_the_same_bits_shared_among_bytes() -> None:
    tokens, size, loss = 1000, 3850, 4.2
    total_bits = tokens * loss * math.log2(math.e)
    assert bits_per_byte(loss, size / tokens) == pytest.approx(total_bits / size)
    assert bits_per_byte(math.log(256), 1) == pytest.approx(8)  # a byte that is not known at all


def test_perplexity_overflows_to_infinity() -> None:
    assert perplexity(math.log(18.4)) == pytest.approx(18.4)
    assert perplexity(1e4) == math.inf
