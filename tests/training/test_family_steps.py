"""GPT-2 and BERT learn the same on any mesh, in micro-batches and with remat; dropout, types and padding included."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from family_support import VOCAB, bert, gpt2, random_batch, random_params
from support import tiny_config, use_mesh
from training_support import to_host

from gpt1_jax.devices.mesh import place_rows
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.state import State
from gpt1_jax.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick_compilation")

Axes = tuple[int, int, int]
FAMILIES = {"gpt2": gpt2, "bert": bert}


@cache
def step(
    family: str, axes: Axes, remat: str, accumulation: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The parameters after an update, and its metrics."""
    model = FAMILIES[family](unroll=1, remat=remat, residual_dropout=0.3)
    batch = random_batch(model)
    setting = {"train.batch_size": len(batch.tokens), "train.accumulation": accumulation}
    # A large ε keeps Adam from making whole steps of rounding errors.
    config = tiny_config(**setting | {"optimizer.epsilon": 1e-3, "optimizer.warmup_steps": 0})
    trunk = Transformer(model, VOCAB)
    with use_mesh(*axes) as mesh:
        trainer = Trainer.make(
            trunk, language_model_loss(trunk, dropout=True), mesh, config.optimizer, config.train
        )
        fresh = trainer.abstract
        params = jax.device_put(random_params(model), jax.tree.map(lambda x: x.sharding, fresh.params))
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), (fresh.step, fresh.optimizer))
        number, moments = jax.device_put(
            zeros, jax.tree.map(lambda x: x.sharding, (fresh.step, fresh.optimizer))
        )
        rows = place_rows(
            lambda start, stop: jax.tree.map(lambda x: x[start:stop], batch), len(batch.tokens), mesh
        )
        state, metrics = trainer.step(State(number, params, moments), rows)
        return to_host(state.params), jax.device_get(metrics)


@pytest.mark.parametrize(
    ("axes", "remat", "accumulation"),
    [
        ((2, 2, 2), "dots", 2),
        pytest.param((1, 2, 4), "full", 1, marks=pytest.mark.slow),
        pytest.param((8, 1, 1), "none", 1, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_is_the_same_on_any_mesh(family: str, axes: Axes, remat: str, accumulation: int) -> None:
    expected, metrics = step(family, (1, 1, 1), "none", 1)
    found, told = step(family, axes, remat, accumulation)
    assert told["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    assert told["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-5)
    before = to_host(random_params(FAMILIES[family]()))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5, err_msg=name)
        assert (array != before[name]).any() or "pooler_bias" in name, name


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_close_to_float32(family: str) -> None:
    found = []
    for dtype in ("float32", "bfloat16"):
        model = FAMILIES[family](unroll=1, dtype=dtype)
        trunk, batch = Transformer(model, VOCAB), random_batch(model)
        with use_mesh():
            loss = jax.jit(language_model_loss(trunk, dropout=True))
            found.append(float(loss(random_params(model), batch)[0]))
    assert found[1] == pytest.approx(found[0], rel=0.02)


@pytest.mark.parametrize("axes", [(1, 1, 1), (2, 2, 2)])
def test_the_loss_at_the_places_with_a_weight_is_the_whole_one(axes: Axes) -> None:
    """And so are its gradients; the places stand in any order, with some of weight 0 among them."""
    model = bert(unroll=1)
    trunk, batch = Transformer(model, VOCAB), random_batch(model)
    most = int((batch.weights > 0).sum(-1).max()) + 2
    places = np.argsort(batch.weights == 0, axis=-1, kind="stable")[..., :most][..., ::-1].astype(np.int32)
    found = []
    with use_mesh(*axes) as mesh:
        step = jax.jit(jax.value_and_grad(language_model_loss(trunk, dropout=True), has_aux=True))
        for at in (None, places):
            rows = place_rows(
                lambda start, stop, at=at: jax.tree.map(lambda x: x[start:stop], batch._replace(places=at)),
                8,
                mesh,
            )
            found.append(step(random_params(model), rows))
    ((whole, _), gradients), ((loss, _), others) = found
    assert float(loss) == pytest.approx(float(whole), rel=1e-6)
    for name, array in to_host(gradients).items():
        np.testing.assert_allclose(to_host(others)[name], array, atol=1e-6, err_msg=name)
