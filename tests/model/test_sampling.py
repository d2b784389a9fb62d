"""Choosing a token: the distributions exactly, by chi-square tests of many draws, and against transformers' filters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gpt1_jax.model.decoding.sampling import Sampling, choose, penalized, truncated

DRAWS = 20_000
PIECES = 40


def some_logits(rows: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (rows, PIECES)).astype(np.float32)


def scalars(**values: float) -> Sampling:
    """Sampling with these fields; what is not named is off."""
    fields = {name: jnp.asarray(value) for name, value in values.items()}
    return Sampling(*(fields.get(name) for name in Sampling._fields))


def exact(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The probabilities that are to be drawn from, in float64, straight from the definitions."""
    chances = np.exp(logits.astype(np.float64) / temperature)
    chances /= chances.sum()
    order = np.argsort(-chances)
    kept = order[: top_k or len(order)]
    inside = chances[kept] / chances[kept].sum()
    enough = int(np.searchsorted(np.cumsum(inside), top_p)) + 1 if top_p < 1 else len(kept)
    result = np.zeros_like(chances)
    result[kept[:enough]] = chances[kept[:enough]]
    return result / result.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, 0, 1.0),
        (0.5, 0, 1.0),
        (1.7, 0, 1.0),
        (1.0, 5, 1.0),
        (1.0, 0, 0.8),
        (0.7, 12, 0.9),
        (1.0, 1, 1.0),
    ],
)
def test_draws_have_the_exact_probabilities(temperature: float, top_k: int, top_p: float) -> None:
    logits = some_logits()
    sampling = scalars(temperature=temperature, top_k=top_k or PIECES, top_p=top_p)
    keys = jax.random.split(jax.random.key(1), DRAWS)
    repeated = jnp.broadcast_to(logits, (DRAWS, PIECES))
    tokens, _ = jax.jit(choose)(repeated, keys, jnp.full(len(keys), 0), sampling, None)
    expected = exact(logits[0], temperature, top_k, top_p) * DRAWS
    counts = np.bincount(tokens, minlength=PIECES)
    assert counts[expected == 0].sum() == 0
    common = expected > 5  # the chi-square approximation asks for it; the rest is one class
    observed = np.append(counts[common], counts[~common].sum())
    awaited = np.append(expected[common], expected[~common].sum())
    observed, awaited = observed[awaited > 0], awaited[awaited > 0]
    if len(awaited) > 1:
        assert scipy.stats.chisquare(observed, awaited * observed.sum() / awaited.sum()).pvalue > 1e-3


def test_filters_are_those_of_transformers() -> None:
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    generation = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
    logits = some_logits(rows=6)
    for top_k, top_p in ((7, 1.0), (0, 0.6), (0, 0.95), (20, 0.5)):
        theirs = torch.from_numpy(logits)
        if top_k:
            theirs = generation.TopKLogitsWarper(top_k)(None, theirs)
        if top_p < 1:
            theirs = generation.TopPLogitsWarper(top_p)(None, theirs)
        sampling = scalars(**({"top_k": top_k} if top_k else {}), **({"top_p": top_p} if top_p < 1 else {}))
        ours = truncated(jnp.asarray(logits), sampling.top_k, sampling.top_p)
        np.testing.assert_array_equal(ours, theirs.numpy())


def test_the_penalty_is_that_of_transformers() -> None:
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    generation = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
    logits, ids = some_logits(rows=3), np.random.default_rng(2).integers(0, PIECES, (3, 9))
    seen = np.zeros(logits.shape, bool)
    np.put_along_axis(seen, ids, True, axis=1)
    processor = generation.RepetitionPenaltyLogitsProcessor(1.3)
    theirs = processor(torch.from_numpy(ids), torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(
        penalized(jnp.asarray(logits), jnp.asarray(seen), jnp.float32(1.3)), theirs, rtol=1e-6
    )


def test_greedy_takes_the_most_probable_and_tells_its_own_probability() -> None:
    logits = some_logits(rows=4)
    keys = jax.random.split(jax.random.key(0), 4)
    tokens, found = choose(jnp.asarray(logits), keys, jnp.full(len(keys), 0), scalars(), None)
    np.testing.assert_array_equal(tokens, logits.argmax(1))
    np.testing.assert_allclose(
        found, scipy.special.log_softmax(logits.astype(np.float64), axis=1).max(1), rtol=1e-5
    )


def test_probabilities_are_told_before_anything_is_done_to_the_logits() -> None:
    logits = some_logits(rows=50)
    keys, seen = jax.random.split(jax.random.key(0), 50), jnp.ones(logits.shape, bool)
    sampling = scalars(temperature=3.0, top_k=10, top_p=0.9, repetition_penalty=2.0)
    tokens, found = choose(jnp.asarray(logits), keys, jnp.full(len(keys), 3), sampling, seen)
    expected = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(
        found, np.take_along_axis(expected, np.array(tokens)[:, None], 1)[:, 0], rtol=1e-5
    )


def test_each_draw_of_a_key_is_another() -> None:
    flat = jnp.zeros((200, PIECES))
    keys = jax.random.split(jax.random.key(0), 200)
    draws = [choose(flat, keys, jnp.full(len(keys), n), scalars(temperature=1.0), None)[0] for n in range(3)]
    assert (np.array(draws[0]) == np.array(draws[1])).mean() < 0.1
    assert (np.array(draws[1]) == np.array(draws[2])).mean() < 0.1
