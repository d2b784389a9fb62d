"""Twelve fine-tuning updates of a tiny model on two candidates an example, against the authors' program's own."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from oracle_support import CONFIG, SPECIALS, UPDATES, VOCAB_SIZE, as_batch, as_ours, trace
from support import use_mesh
from training_support import place

from gpt1_jax.devices.mesh import place_rows
from gpt1_jax.model.heads import Classifier, Head
from gpt1_jax.model.specials import special_ids
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.tasks.batches import TaskBatch
from gpt1_jax.tasks.task import transform
from gpt1_jax.training.objectives import finetuning_loss
from gpt1_jax.training.trainer import Trainer

TRACE = trace(1)
LM_COEF = 0.5


def make_model(**moved: Any) -> Classifier:
    return Classifier(
        make_trunk(dataclasses.replace(CONFIG.model, **moved), VOCAB_SIZE, specials=SPECIALS),
        Head("each", 1, 0.0),
        special_ids(VOCAB_SIZE).extract,
    )


def batch_of(update: int) -> TaskBatch:
    return as_batch(*(TRACE[f"batch/{name}"][update] for name in "XMY"))


def assert_near(found: Any, expected: Any, atol: float) -> None:
    """All but what does not move the loss: the head's bias and the keys' biases."""
    found, expected = jax.device_get(found), dict(expected)
    for (path, one), other in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name == "head/bias":
            continue
        if name.endswith("qkv_bias"):
            one, other = one[:, [0, 2]], other[:, [0, 2]]
        np.testing.assert_allclose(one, other, rtol=0, atol=atol, err_msg=name)


def test_the_sequences_are_those_that_the_program_makes_of_its_stories() -> None:
    """Context and ending are cut to half the context less two; delimiter and extract token never are."""
    texts = [[TRACE[f"stories/x{part}"][0, row] for part in (1, 2, 3)] for row in range(4)]
    most = CONFIG.model.context_length // 2 - 2
    for row, parts in enumerate(texts):
        context, *endings = ([int(id) for id in part if id >= 0][:most] for part in parts)
        sequences = transform(
            "choice", [context, [], *endings], special_ids(VOCAB_SIZE), CONFIG.model.context_length
        )
        for candidate, sequence in enumerate(sequences):
            real = int(TRACE["batch/M"][0, row, candidate].sum())
            assert list(sequence) == TRACE["batch/X"][0, row, candidate, :real, 0].tolist()


@pytest.fixture(scope="module")
def replay() -> dict[str, Any]:
    """Losses, norms and rates of all updates, the first gradient, and parameters and moments after some of them."""
    model = make_model()
    seen: dict[str, Any] = {"metrics": [], "params": {}, "moments": {}}
    with use_mesh() as mesh:
        objective = finetuning_loss(model, LM_COEF, regression=False, softmax="authors")
        trainer = Trainer.make(model, objective, mesh, CONFIG.optimizer, CONFIG.train)
        params = place(as_ours(TRACE, "params_after_00"), trainer.abstract.params)
        seen["logits"], _ = jax.jit(lambda params, tokens: model.apply({"params": params}, tokens))(
            params, batch_of(0).tokens
        )
        seen["gradient"] = jax.jit(jax.grad(lambda params, batch: objective(params, batch)[0]))(
            params, batch_of(0)
        )
        state = trainer.init(0)._replace(params=params)
        for update in range(UPDATES):
            batch = batch_of(update)
            state, metrics = trainer.step(state, place_rows(lambda start, stop, b=batch: b, 4, mesh))
            seen["metrics"].append(jax.device_get(metrics))
            seen["params"][update + 1] = jax.device_get(state.params)
            seen["moments"][update + 1] = jax.device_get(state.optimizer[1])
    return seen


def test_logits_and_the_first_gradient(replay: dict[str, Any]) -> None:
    np.testing.assert_allclose(replay["logits"][:, 0], TRACE["clf_logits"][0], rtol=0, atol=1e-6)
    expected = as_ours(TRACE, "grads_update_01")
    for found, other in zip(jax.tree.leaves(replay["gradient"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("update", range(UPDATES))
def test_losses_norms_and_rates_of_every_update(replay: dict[str, Any], update: int) -> None:
    metrics, atol = replay["metrics"][update], 1e-6 if update == 0 else 5e-6
    np.testing.assert_allclose(metrics["loss"], TRACE["loss"][update], rtol=0, atol=atol)
    np.testing.assert_allclose(metrics["task_loss"], TRACE["clf_losses"][update].mean(), rtol=0, atol=atol)
    np.testing.assert_allclose(metrics["lm_loss"], TRACE["lm_losses"][update].mean(), rtol=0, atol=atol)
    np.testing.assert_allclose(metrics["grad_norm"], TRACE["global_norm"][update], rtol=1e-5)
    rate = CONFIG.optimizer.learning_rate * TRACE["lr_multiplier"][update]
    np.testing.assert_allclose(metrics["learning_rate"], rate, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("update", [1, 2, 6, 12])
def test_parameters_after_updates(replay: dict[str, Any], update: int) -> None:
    assert_near(replay["params"][update], as_ours(TRACE, f"params_after_{update:02}"), 5e-6)


@pytest.mark.parametrize("update", [1, 12])
def test_moments_after_updates(replay: dict[str, Any], update: int) -> None:
    """The means are `m` and `v` of Adam, over clipped gradients."""
    for name, field in (("m", "mu"), ("v", "nu")):
        expected = as_ours(TRACE, f"adam_{name}_after_{update:02}")
        assert_near(getattr(replay["moments"][update], field), expected, 1e-6)


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        ({"activation": "relu"}, {}),
        ({"activation": "gelu"}, {}),
        ({}, {"auxiliary_weight": 0.0}),
        # λ on the task instead, which write-ups say.
        ({}, {"auxiliary_weight": 2.0}),
        # Our default leaves the positions out.
        ({}, {"softmax": "tokens"}),
    ],
    ids=str,
)
def test_a_switch_that_is_moved_is_another_loss(model: dict[str, Any], objective: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"auxiliary_weight": LM_COEF, "regression": False, "softmax": "authors"}
    with use_mesh():
        moved = finetuning_loss(make_model(**model), **settings | objective)
        loss, _ = jax.jit(moved)(as_ours(TRACE, "params_after_00"), batch_of(0))
    # Equality is within 1e-6.
    assert abs(float(loss) - TRACE["loss"][0]) > 1e-5
