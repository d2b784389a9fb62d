"""Documents that are kept apart are learned as if each stood alone, on any mesh."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from family_support import VOCAB, bert, random_params
from support import tiny_config, tiny_model, use_mesh
from training_support import to_host

from gpt1_jax.config import ModelConfig
from gpt1_jax.data.batches import Batch, PretrainingBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.documents import Documents
from gpt1_jax.data.masked import MaskedBatches, Masking
from gpt1_jax.devices.mesh import place_rows
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.state import State
from gpt1_jax.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick_compilation")

END, CLS, SEP, MASK, ROWS, LENGTH = 7, 90, 91, 92, 4, 16
DRY = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
MASKING = Masking(
    CLS, SEP, MASK, SEP, np.arange(8, 80, dtype=np.int32), np.isin(np.arange(VOCAB), [END, CLS, SEP, MASK]),
    None, np.zeros(VOCAB, bool),
)  # fmt: skip


def make_batch(model: ModelConfig, documents: Documents) -> Batch:
    """Windows of documents of one to nine tokens."""
    generator = np.random.default_rng(3)
    tokens = [END]
    for length in generator.integers(1, 10, 80):
        tokens += [*generator.integers(8, 80, length).tolist(), END]
    split = Split((np.array(tokens, np.uint16),), 80, 1)
    sizes: dict[str, Any] = {"seed": 0, "batch_size": ROWS, "context_length": LENGTH, "documents": documents}
    batches = PretrainingBatches(split, **sizes) if model.causal else MaskedBatches(split, MASKING, **sizes)
    return batches.rows(1, 0, ROWS)


def alone(batch: Batch, causal: bool) -> Batch:
    """A row for each document or part of one, without groups; behind it padding without weight."""
    assert batch.groups is not None
    rows, padding = [], []
    for row in range(len(batch.tokens)):
        for group in np.unique(batch.groups[row]):
            own = batch.groups[row, 0] == group
            places = np.arange(LENGTH) if batch.positions is None else batch.positions[row, 0]
            arrays = (batch.tokens[row, 0], batch.targets[row, 0], batch.weights[row, 0], places)
            missing = LENGTH - own.sum()
            rows.append([np.pad(array[own], (0, missing)) for array in arrays])
            padding.append(np.arange(LENGTH) >= own.sum())
    tokens, targets, weights, places = (np.stack(column)[:, None] for column in zip(*rows, strict=True))
    noise = np.zeros((len(rows), 1), np.uint32)
    groups = None if causal else -np.stack(padding)[:, None].astype(np.int32)
    return Batch(tokens, targets, weights, noise, noise[:, 0], groups=groups, positions=places)


@pytest.mark.parametrize(
    ("make", "form", "restart"),
    [(tiny_model, "plain", True), (tiny_model, "chunked", False), (bert, "chunked", True)],
)
def test_loss_and_gradients_are_those_of_the_documents_alone(make: Any, form: str, restart: bool) -> None:
    model = make(attention=form, unroll=1, **DRY)
    batch = make_batch(model, Documents(END, apart=True, restart=restart))
    assert batch.groups is not None and (batch.groups.max((1, 2)) > 0).all()
    single = alone(batch, model.causal)
    assert len(single.tokens) > 2 * ROWS
    loss = language_model_loss(Transformer(model, VOCAB), dropout=False)
    with use_mesh():
        gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (found, _), gradients = gradient(random_params(model), batch)
        (expected, _), references = gradient(random_params(model), single)
        joined, _ = jax.jit(loss)(random_params(model), batch._replace(groups=None))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert abs(float(found) - float(joined)) > 1e-3
    references = to_host(references)
    for name, array in to_host(gradients).items():
        np.testing.assert_allclose(array, references[name], atol=1e-5, err_msg=name)


@cache
def update(axes: tuple[int, int, int], remat: str, accumulation: int) -> tuple[dict[str, np.ndarray], float]:
    """The parameters after an update with dropout, and its loss."""
    config = tiny_config(
        **{
            "train.batch_size": ROWS,
            "train.accumulation": accumulation,
            "model.remat": remat,
            "model.unroll": 1,
        }
        | {"optimizer.epsilon": 1e-3, "optimizer.warmup_steps": 0}
    )
    trunk = Transformer(config.model, VOCAB)
    batch = make_batch(config.model, Documents(END, apart=True, restart=True))
    with use_mesh(*axes) as mesh:
        loss = language_model_loss(trunk, dropout=True)
        trainer = Trainer.make(trunk, loss, mesh, config.optimizer, config.train)
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), trainer.abstract)
        state = State(zeros.step, random_params(config.model), zeros.optimizer)
        state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, trainer.abstract))
        rows = place_rows(lambda start, stop: jax.tree.map(lambda x: x[start:stop], batch), ROWS, mesh)
        state, metrics = trainer.step(state, rows)
        return to_host(state.params), float(metrics["loss"])


@pytest.mark.slow
def test_an_update_is_the_same_on_a_mesh_in_micro_batches_and_with_remat() -> None:
    (expected, loss), (found, other) = update((1, 1, 1), "none", 1), update((1, 2, 2), "dots", 2)
    assert other == pytest.approx(loss, rel=1e-5)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5, err_msg=name)
