"""Attention: chunked or whole, it is the formula, sees what it may, and drops what the mask says."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny_model, use_mesh

from gpt1_jax.model import attention
from gpt1_jax.model.attention import BEFORE, CHUNK, Sight
from gpt1_jax.model.dropout import Dropout, keep_mask
from gpt1_jax.model.kernels.choice import FORMS, attention_in_use

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH, HEADS, HEAD_WIDTH, CONTEXT, SITE = 2, 2, 8, 320, 4
LENGTHS = [1, CHUNK - 1, CHUNK, CHUNK + 1, 300]
CPU_FORMS = ["plain", "chunked"]
NOISE = jnp.array([3, 4], jnp.uint32)


def inputs(length: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, key and value whose scores are far from all alike."""
    return tuple(2 * jax.random.normal(jax.random.key(0), (3, BATCH, length, HEADS, HEAD_WIDTH)))


@partial(jax.jit, static_argnames=("form", "rate"))
def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, sight: Sight = BEFORE, *, form: str, rate: float
) -> jax.Array:
    return FORMS[form](query, key, value, Dropout(NOISE, SITE, rate, CONTEXT), sight)


@cache
def keep_of(length: int, rate: float) -> np.ndarray:
    """Returns the kept weights [B, H, T, T], asked for one by one."""
    head, row, column = np.indices((HEADS, length, length))
    index = jnp.asarray((head * CONTEXT + row) * CONTEXT + column, jnp.uint32)
    return np.asarray(keep_mask(NOISE, SITE, index, rate))


def seen_by(sight: Sight, length: int) -> np.ndarray:
    """What each position sees, [B or 1, 1, T, T]."""
    row, column = np.indices((length, length))
    seen = ((row >= column) | (not sight.causal))[None, None]
    if sight.groups is None:
        return seen
    groups = np.asarray(sight.groups)
    return seen & (groups[:, None, :, None] == groups[:, None, None])


def weights_of(query: jax.Array, key: jax.Array, sight: Sight = BEFORE) -> np.ndarray:
    """softmax(q kᵀ/√K) over what is seen, [B, H, T, T], in float64."""
    q, k = np.asarray(query, np.float64), np.asarray(key, np.float64)
    scores = np.einsum("bqhk,bshk->bhqs", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(seen_by(sight, len(scores[0, 0])), scores, -np.inf)
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.mark.parametrize("grouped", [False, True], ids=["whole", "grouped"])
@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize("form", CPU_FORMS)
def test_positions_attend_to_what_they_may_see(form: str, causal: bool, grouped: bool) -> None:
    """Documents side by side in the first sequence, padding at the end of the second; gradients as those of "plain"."""
    length = CHUNK + 50
    places = jnp.arange(length)
    groups = jnp.stack(
        [jnp.searchsorted(jnp.array([40, 41, CHUNK + 7]), places), jnp.where(places > CHUNK - 9, -1, 0)]
    )
    sight = Sight(groups.astype(jnp.int32) if grouped else None, causal)
    query, key, value = inputs(length)
    kept = weights_of(query, key, sight) * keep_of(length, 0.3) / 0.7
    expected = np.einsum("bhqs,bshk->bqhk", kept, np.asarray(value, np.float64))
    output = attend(query, key, value, sight, form=form, rate=0.3)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=2e-5)

    def gradients(form: str) -> tuple[jax.Array, ...]:
        def loss(query, key, value):
            return jnp.sin(attend(query, key, value, sight, form=form, rate=0.3)).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2)))(query, key, value)

    if form == "chunked":
        for chunked, plain in zip(gradients("chunked"), gradients("plain"), strict=True):
            np.testing.assert_allclose(chunked, plain, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("form", CPU_FORMS)
@pytest.mark.parametrize("length", LENGTHS)
def test_attention_is_the_formula(length: int, form: str, rate: float) -> None:
    query, key, value = inputs(length)
    kept = weights_of(query, key) * (keep_of(length, rate) if rate else 1) / (1 - rate)
    expected = np.einsum("bhqs,bshk->bqhk", kept, np.asarray(value, np.float64))
    output = attend(query, key, value, form=form, rate=rate)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("form", CPU_FORMS)
@pytest.mark.parametrize("length", LENGTHS)
def test_exactly_the_masked_weights_are_dropped(length: int, form: str) -> None:
    """With the identity as values, the output is the weights, which are 0 only where they are dropped."""
    query, key, _ = 0.1 * jnp.stack(inputs(length))
    value = jnp.broadcast_to(jnp.eye(length)[:, None], (BATCH, length, HEADS, length))
    weights = attend(query, key, value, form=form, rate=0.3).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(
        weights > 0, keep_of(length, 0.3) & np.tril(np.ones((length, length), bool))
    )


@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_change_no_gradient(length: int) -> None:
    def gradients(form: str) -> tuple[jax.Array, ...]:
        def loss(query, key, value):
            return jnp.sin(attend(query, key, value, form=form, rate=0.3)).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*inputs(length))

    for chunked, plain in zip(gradients("chunked"), gradients("plain"), strict=True):
        np.testing.assert_allclose(chunked, plain, rtol=1e-5, atol=2e-5)
        assert length == 1 or np.abs(plain).max() > 0.01


def test_auto_is_what_the_devices_in_use_run_best() -> None:
    with use_mesh():
        assert attention_in_use(tiny_model(attention="auto"), dropout=True) is FORMS["chunked"]


@pytest.mark.parametrize("form", CPU_FORMS)
def test_masked_scores_never_win(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However low the scores of the past, the future gets no weight."""
    monkeypatch.setattr(attention, "CHUNK", 4)
    key = jnp.full((1, 6, 1, HEAD_WIDTH), -1e4)
    query, value = jnp.full_like(key, 1e3), jnp.arange(6.0)[None, :, None, None] * jnp.ones((1, 6, 1, 1))
    output = FORMS[form](query, key, value, Dropout(None, SITE, 0.0, 6))
    np.testing.assert_allclose(output[0, :, 0, 0], np.arange(6) / 2, atol=1e-5)


def test_the_softmax_of_bfloat16_is_in_float32() -> None:
    """Scores of 320 and 322.5, which bfloat16 would round to 322."""
    query = jnp.full((1, 2, 1, 1), 1.25, jnp.bfloat16)
    key = jnp.array([256, 258], jnp.bfloat16).reshape(1, 2, 1, 1)
    value = jnp.array([0, 1], jnp.bfloat16).reshape(1, 2, 1, 1)
    output = FORMS["plain"](query, key, value, Dropout(None, 0, 0.0, 2))
    assert output.dtype == jnp.bfloat16
    assert float(output[0, 1, 0, 0]) == pytest.approx(1 / (1 + np.exp(-2.5)), abs=3e-3)
