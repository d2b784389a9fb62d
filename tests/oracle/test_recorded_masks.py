"""A pass with all dropouts on, where each of the program's recorded masks is applied where the program applied it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle_support import CONFIG, CONTEXT, LAYERS, SPECIALS, VOCAB_SIZE, WIDTH, as_batch, as_ours, trace
from support import use_mesh

from gpt1_jax.model import dropout
from gpt1_jax.model.embedding import table_rows
from gpt1_jax.model.heads import CLASSIFIER_SITE, Classifier, Head
from gpt1_jax.model.specials import special_ids
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.training.objectives import finetuning_loss

TRACE = trace(3)
RATES = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), 0.1)


def masks() -> Any:
    """Replaces `dropout.keep_mask` by what the program recorded, at the same site and index."""
    used, rows = VOCAB_SIZE + SPECIALS, table_rows(VOCAB_SIZE)
    table = np.ones((rows + CONTEXT, WIDTH), bool)
    table[:used], table[rows:] = np.split(TRACE["mask/00"].astype(bool), [used])
    recorded = {number: TRACE[f"mask/{number:02}"].astype(bool) for number in range(1, 8)}
    attention = np.stack([recorded[1 + 3 * layer] for layer in range(LAYERS)])
    branches = np.stack([recorded[3 * layer + branch] for layer in range(LAYERS) for branch in (2, 3)])

    def keep(noise: jax.Array, site: Any, index: jax.Array, rate: float) -> jax.Array:
        assert rate == pytest.approx(0.1)
        if isinstance(site, int) and site == 0:
            return jnp.asarray(table.reshape(-1))[index][None]
        if isinstance(site, int) and site == CLASSIFIER_SITE:
            return jnp.asarray(recorded[7])
        layer, branch = (site - 1) // 3, (site - 1) % 3
        if index.ndim == 3:
            return jnp.asarray(attention)[layer]
        return jnp.asarray(branches)[2 * layer + branch - 1]

    return keep


@pytest.mark.parametrize("training", [True, False])
def test_losses_logits_and_gradients_with_the_programs_own_masks(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropout, "keep_mask", masks())
    config = dataclasses.replace(CONFIG.model, embedding_dropout_form="matrix", **RATES)
    model = Classifier(
        make_trunk(config, VOCAB_SIZE, specials=SPECIALS),
        Head("each", 1, 0.1),
        special_ids(VOCAB_SIZE).extract,
    )
    batch = as_batch(*(TRACE[name] for name in "XMY"))
    params = as_ours(TRACE, "params")
    objective = finetuning_loss(model, 0.5, regression=False, softmax="authors")

    def logits(params: Any) -> jax.Array:
        trunk = dropout.drop_tables(params["trunk"], batch.update[0], config) if training else params["trunk"]
        noise = batch.noise if training else None
        found: Any = model.apply({"params": {**params, "trunk": trunk}}, batch.tokens, noise)
        return found[0][:, 0]

    with use_mesh():
        np.testing.assert_allclose(
            jax.jit(logits)(params), TRACE["clf_logits" if training else "eval_clf_logits"], rtol=0, atol=1e-6
        )
        if not training:
            return
        (loss, parts), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(params, batch)
    np.testing.assert_allclose(loss, TRACE["loss"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(parts["task_loss"], TRACE["clf_losses"].mean(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(parts["lm_loss"], TRACE["lm_losses"].mean(), rtol=0, atol=1e-6)
    expected = as_ours(TRACE, "grad")
    for found, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, other, rtol=0, atol=1e-6)
