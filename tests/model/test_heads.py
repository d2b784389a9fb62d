"""The head: the state at the extract token, the two orders added, a score a choice, a class or an end a position."""

import dataclasses
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support import tiny_model, use_mesh

from gpt1_jax.model.dropout import keep_mask
from gpt1_jax.model.heads import CLASSIFIER_SITE, Classifier, Head, Pooling
from gpt1_jax.model.specials import SPECIALS, special_ids
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.model.trunk import make_trunk

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCAB = 50
EXTRACT = special_ids(VOCAB).extract
WIDTH, LENGTH = 32, 12
KEPT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}


def make_classifier(
    pooling: Pooling, outputs: int, classifier_dropout: float = 0.0, **rates: float
) -> Classifier:
    config = tiny_model(d_model=WIDTH, context_length=16, unroll=1, **KEPT | rates)
    trunk = Transformer(config, VOCAB, specials=SPECIALS)
    return Classifier(trunk, Head(pooling, outputs, classifier_dropout), EXTRACT)


def random_params(model: nn.Module, *inputs: Any) -> Any:
    """Parameters without a zero among them."""
    generator = np.random.default_rng(0)
    with use_mesh():
        shapes = jax.eval_shape(lambda: nn.unbox(model.init(jax.random.key(0), *inputs))["params"])
    return jax.tree.map(lambda leaf: generator.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def tokens_with_extract_at(ends: list[list[int]]) -> np.ndarray:
    """Random tokens [B, S, T], each sequence with its extract token at the given position and tokens behind it."""
    tokens = np.random.default_rng(1).integers(0, VOCAB, (len(ends), len(ends[0]), LENGTH), np.int32)
    np.put_along_axis(tokens, np.array(ends)[..., None], EXTRACT, -1)
    return tokens


@partial(jax.jit, static_argnums=0)
def apply(model: nn.Module, params: Any, *inputs: Any) -> Any:
    return model.apply({"params": params}, *inputs)


def classify(
    model: Classifier, params: Any, tokens: np.ndarray, noise: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Logits [B, P, C], without P where it is 1; and states [B, S, T, D]."""
    with use_mesh():
        logits, hidden = apply(model, params, tokens, noise)
    logits = np.array(logits)
    return logits[:, 0] if logits.shape[1] == 1 else logits, np.array(hidden).reshape(*tokens.shape, WIDTH)


def classifier_params(model: Classifier) -> Any:
    return random_params(model, jnp.zeros((1, 1, 1), jnp.int32))


# ── What is read ─────────────────────────────────────────────────────────────────────────────────────────────


ENDS = [[3, 11], [11, 3], [0, 7]]


FAMILIES = {
    "gpt1": {},
    "gpt2": {"norm": "pre"},
    "bert": {"causal": False, "token_types": 2, "embedding_norm": True, "activation": "gelu"},
    "lstm": {"kind": "lstm"},
    "gpt1 of one layer": {"num_layers": 1},
    "gpt1 without a loop": {"unroll": 0},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["sum", "each"])
def test_an_answer_is_that_of_a_call_which_computes_all_states(family: str, pooling: Pooling) -> None:
    config = dataclasses.replace(
        tiny_model(d_model=WIDTH, context_length=16, unroll=1, **KEPT), **FAMILIES[family]
    )
    trunk = make_trunk(config, VOCAB, specials=SPECIALS)
    model = Classifier(trunk, Head(pooling, 1 if pooling == "each" else 3, 0.0), EXTRACT)
    params, tokens = classifier_params(model), tokens_with_extract_at(ENDS)
    given = {}
    if not config.causal:
        places = np.arange(LENGTH)
        # Padding behind the extract token is a group of its own, as batches have it.
        given["groups"] = np.where(places <= np.array(ENDS)[..., None], 0, -1)
        given["types"] = np.broadcast_to(places // 2 % 2, tokens.shape)
    with use_mesh():
        expected, _ = model.apply({"params": params}, tokens, **given)
        found = model.apply({"params": params}, tokens, **given, method="answer")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_class_is_read_off_the_state_at_the_extract_token_wherever_it_stands() -> None:
    model, tokens = make_classifier("one", 3), tokens_with_extract_at([[3], [11], [0], [7]])
    params = classifier_params(model)
    logits, hidden = classify(model, params, tokens)
    states = np.stack([hidden[n, 0, end] for n, end in enumerate([3, 11, 0, 7])])
    assert logits.dtype == np.float32
    expected = states @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_the_state_at_the_first_token_is_the_same_whatever_follows() -> None:
    """So a class cannot be read there, as some write-ups do."""
    model, tokens = make_classifier("one", 3), tokens_with_extract_at([[11], [11]])
    tokens[:, 0, 0] = special_ids(VOCAB).start
    _, states = classify(model, classifier_params(model), tokens)
    np.testing.assert_array_equal(states[0, 0, 0], states[1, 0, 0])
    assert np.abs(states[0, 0, 11] - states[1, 0, 11]).max() > 0.01


def test_a_fresh_head_is_normal_with_deviation_two_hundredths_and_its_bias_0() -> None:
    with use_mesh():
        fresh = nn.unbox(Head("one", 200, 0.1).init(jax.random.key(0), jnp.ones((1, 1, WIDTH)), None))[
            "params"
        ]
    assert np.std(fresh["kernel"]) == pytest.approx(0.02, rel=0.05) and not np.any(fresh["bias"])


def test_similarity_adds_the_states_of_both_orders() -> None:
    model, tokens = make_classifier("sum", 2), tokens_with_extract_at(ENDS)
    params = classifier_params(model)
    logits, hidden = classify(model, params, tokens)
    added = np.stack([hidden[n, 0, one] + hidden[n, 1, other] for n, (one, other) in enumerate(ENDS)])
    np.testing.assert_allclose(logits, added @ params["head"]["kernel"] + params["head"]["bias"], atol=1e-5)
    swapped, _ = classify(model, params, tokens[:, ::-1])
    np.testing.assert_allclose(swapped, logits, atol=1e-5)


def test_each_choice_has_one_score_of_its_own() -> None:
    model, tokens = make_classifier("each", 1), tokens_with_extract_at(ENDS)
    params = classifier_params(model)
    logits, hidden = classify(model, params, tokens)
    states = np.stack([[hidden[n, s, end] for s, end in enumerate(ends)] for n, ends in enumerate(ENDS)])
    expected = states @ params["head"]["kernel"][:, 0] + params["head"]["bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    swapped, _ = classify(model, params, tokens[:, ::-1])
    np.testing.assert_allclose(swapped, logits[:, ::-1], atol=1e-5)


def test_what_stands_behind_the_extract_token_changes_nothing() -> None:
    model, tokens = make_classifier("each", 1), tokens_with_extract_at(ENDS)
    params = classifier_params(model)
    padded = np.where(np.arange(LENGTH) > np.array(ENDS)[..., None], 0, tokens)
    assert (padded != tokens).any()
    logits, _ = classify(model, params, tokens)
    np.testing.assert_allclose(classify(model, params, padded)[0], logits, atol=1e-5)
    before = tokens.copy()
    before[0, 0, 1] = (before[0, 0, 1] + 1) % VOCAB
    assert np.abs(classify(model, params, before)[0] - logits).max() > 1e-3


def test_tagging_gives_every_state_its_classes() -> None:
    model, tokens = make_classifier("tokens", 5), tokens_with_extract_at([[11], [7]])
    params = classifier_params(model)
    logits, hidden = classify(model, params, tokens)
    expected = hidden[:, 0] @ params["head"]["kernel"] + params["head"]["bias"]
    assert logits.shape == (2, LENGTH, 5)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_span_begins_and_ends_at_states_up_to_the_extract_token() -> None:
    model, tokens = make_classifier("ends", 2), tokens_with_extract_at([[11], [7]])
    params = classifier_params(model)
    logits, hidden = classify(model, params, tokens)
    expected = (hidden[:, 0] @ params["head"]["kernel"] + params["head"]["bias"]).swapaxes(1, 2)
    assert logits.shape == (2, 2, LENGTH)
    np.testing.assert_allclose(logits[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(logits[1, :, :8], expected[1, :, :8], atol=1e-5)
    assert (logits[1, :, 8:] < -1e20).all()


# ── Dropout ──────────────────────────────────────────────────────────────────────────────────────────────────


def masks(pooling: Pooling, noise: np.ndarray, width: int, rate: float, sequences: int) -> np.ndarray:
    """What each state's elements are multiplied by on their way into the layer, [B, S, D]."""
    head = Head(pooling, 1, rate)
    states = jnp.ones((len(noise), sequences, width))
    params = random_params(head, states, None)
    gradient = jax.jit(jax.grad(lambda states: apply(head, params, states, noise).sum()))(states)
    return np.array(gradient) / params["kernel"][:, 0]


@pytest.mark.parametrize("pooling", ["sum", "each"])
def test_an_examples_sequences_share_the_classifiers_mask_and_examples_do_not(pooling: Pooling) -> None:
    dropped = masks(pooling, np.array([1, 2, 3, 1], np.uint32), width=1000, rate=0.5, sequences=4) == 0
    assert (dropped == dropped[:, :1]).all()
    one, two, three, again = dropped[:, 0]
    for other in (two, three):
        assert 0.4 < (one == other).mean() < 0.6  # as of two coins
    assert 0.4 < (two == three).mean() < 0.6
    np.testing.assert_array_equal(one, again)  # of the same noise


@pytest.mark.parametrize("pooling", ["tokens", "ends"])
def test_the_states_of_one_sequence_have_masks_of_their_own(pooling: Pooling) -> None:
    dropped = masks(pooling, np.array([1, 2], np.uint32), width=1000, rate=0.5, sequences=4) == 0
    for one, other in pairwise(dropped.reshape(8, 1000)):
        assert 0.4 < (one == other).mean() < 0.6
    longer = masks(pooling, np.array([1, 2], np.uint32), width=1000, rate=0.5, sequences=6) == 0
    np.testing.assert_array_equal(longer[:, :4], dropped)


def test_the_classifier_drops_at_its_rate_and_scales_the_rest() -> None:
    factors = masks("one", np.arange(20, dtype=np.uint32), width=5000, rate=0.1, sequences=1)
    kept = factors != 0
    np.testing.assert_allclose(factors[kept], 1 / 0.9, rtol=1e-5)
    assert abs(kept.mean() - 0.9) < 5 * np.sqrt(0.1 * 0.9 / kept.size)


def test_without_noise_or_rate_nothing_is_dropped() -> None:
    head, states = Head("one", 2, 0.5), jnp.ones((2, 1, 8))
    params = random_params(head, states, None)
    noise = jnp.array([1, 2], jnp.uint32)
    expected = np.ones((2, 1, 8)) @ params["kernel"] + params["bias"]
    np.testing.assert_allclose(apply(head, params, states, None), expected, rtol=1e-5)
    never = Head("one", 2, 0.0)
    np.testing.assert_allclose(apply(never, params, states, noise), expected, rtol=1e-5)
    assert np.abs(apply(head, params, states, noise) - expected).max() > 0.01


ALIKE = np.tile(tokens_with_extract_at([[7]]), (3, 4, 1))  # three examples of four sequences, all the same
NOISE = np.arange(12, dtype=np.uint32).reshape(3, 4)


def test_of_the_same_choices_the_classifiers_dropout_makes_no_difference_but_between_examples() -> None:
    model = make_classifier("each", 1, classifier_dropout=0.5)
    logits, hidden = classify(model, classifier_params(model), ALIKE, NOISE)
    np.testing.assert_allclose(hidden, np.broadcast_to(hidden[0, 0], hidden.shape), atol=1e-5)
    np.testing.assert_allclose(logits, np.repeat(logits[:, :1], 4, 1), atol=1e-5)
    assert np.ptp(logits[:, 0]) > 0.01


@pytest.mark.parametrize("rate", KEPT)
def test_the_trunks_dropout_differs_between_the_sequences_of_an_example(rate: str) -> None:
    model = make_classifier("each", 1, **{rate: 0.5})
    logits, _ = classify(model, classifier_params(model), ALIKE, NOISE)
    assert len(np.unique(logits.round(4))) == 12


def test_the_classifiers_mask_is_none_of_the_trunks() -> None:
    """The noise is the same, the site another: where embeddings are dropped says nothing of the classifier."""
    noise, index = jnp.arange(4, dtype=jnp.uint32), jnp.arange(4000, dtype=jnp.uint32)
    head = keep_mask(noise, CLASSIFIER_SITE, index, 0.5)
    sites = jnp.arange(3 * 48 + 1)  # of 48 layers
    trunk = jax.jit(jax.vmap(lambda site: keep_mask(noise, site, index, 0.5)))(sites)
    agreement = np.array((head == trunk).mean((1, 2)))
    assert (np.abs(agreement - 0.5) < 5 * 0.5 / np.sqrt(head.size)).all()
