"""GPT-2 and BERT, settings of the one Transformer: number by number what transformers computes, and as large."""

from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import pytest
from family_support import (
    LENGTH,
    LENGTHS,
    VOCAB,
    bert,
    gpt2,
    published,
    random_batch,
    random_params,
    reference,
    shapes,
)
from support import use_mesh

from gpt1_jax.config import ModelConfig
from gpt1_jax.data.batches import Batch
from gpt1_jax.errors import UserError
from gpt1_jax.model import output
from gpt1_jax.model.decoding.generator import Generator
from gpt1_jax.model.decoding.settings import Generation
from gpt1_jax.model.transformer import Transformer, parameter_count
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.state import initial_state

pytestmark = pytest.mark.usefixtures("quick_compilation")


@partial(jax.jit, static_argnums=0)
def everything(config: ModelConfig, params: Any, batch: Batch) -> Any:
    """The final states, the logits, the loss, and its gradients."""
    model = Transformer(config, VOCAB)
    flat = [None if x is None else x[:, 0] for x in (batch.tokens, batch.types, batch.groups)]
    hidden: Any = model.apply({"params": params}, flat[0], None, *flat[1:])
    (loss, _), gradients = jax.value_and_grad(language_model_loss(model, dropout=False), has_aux=True)(
        params, batch
    )
    return hidden, output.logits(config, params, hidden, VOCAB), loss, gradients


def expected_of(config: ModelConfig, params: Any, batch: Batch) -> Any:
    """The same by transformers, the gradients by its own names."""
    import torch

    model = reference(config, params, "GPT2LMHeadModel" if config.causal else "BertForMaskedLM")
    tokens, weights = torch.from_numpy(batch.tokens[:, 0]).long(), batch.weights[:, 0]
    labels = torch.from_numpy(np.where(weights > 0, batch.targets[:, 0], -100)).long()
    inputs: dict[str, Any] = {"input_ids": tokens, "output_hidden_states": True}
    if batch.types is not None and batch.groups is not None:
        inputs["token_type_ids"] = torch.from_numpy(batch.types[:, 0]).long()
        inputs["attention_mask"] = torch.from_numpy(batch.groups[:, 0] == 0).long()
    found = model(**inputs)
    loss = torch.nn.functional.cross_entropy(found.logits.flatten(0, 1), labels.flatten())
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return found.hidden_states[-1].detach(), found.logits.detach(), loss.item(), gradients


def assert_close(one: Any, other: Any, what: str) -> None:
    """Within 1e-5 of the greatest expected value."""
    one, other = np.asarray(one), np.asarray(other)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1e-2, np.abs(other).max()), err_msg=what)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(gpt2(unroll=1), id="gpt2"),
        pytest.param(gpt2(num_layers=3, attention="plain"), id="gpt2 plain", marks=pytest.mark.slow),
        pytest.param(bert(unroll=1), id="bert"),
        pytest.param(bert(num_heads=2, activation="gelu_tanh"), id="bert tanh", marks=pytest.mark.slow),
    ],
)
def test_states_logits_loss_and_gradients_are_those_of_transformers(config: ModelConfig) -> None:
    pytest.importorskip("transformers", reason="transformers is the reference; it is not installed")
    params, batch = random_params(config), random_batch(config)
    with use_mesh():
        hidden, logits, loss, gradients = jax.device_get(everything(config, params, batch))
    expected_hidden, expected_logits, expected_loss, expected = expected_of(config, params, batch)
    real = np.ones((len(LENGTHS), LENGTH), bool) if config.causal else np.arange(LENGTH) < LENGTHS[:, None]
    assert_close(hidden[real], expected_hidden[real], "states")
    assert_close(logits[real], expected_logits[real], "logits")
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    ours = published(config, gradients)
    # What BertForMaskedLM lacks learns nothing from masks.
    assert all(
        not ours.pop(f"bert.pooler.dense.{part}").any() for part in ("weight", "bias") if not config.causal
    )
    assert ours.keys() == {name.replace("lm_head", "transformer.wte") for name in expected}
    for name, array in ours.items():
        assert_close(array, expected[name], name)


def test_the_pooled_state_is_that_of_transformers() -> None:
    config = bert()
    params, batch = random_params(config), random_batch(config)
    model = reference(config, params, "BertModel")
    import torch

    assert batch.types is not None and batch.groups is not None
    expected = model(
        torch.from_numpy(batch.tokens[:, 0]).long(),
        token_type_ids=torch.from_numpy(batch.types[:, 0]).long(),
        attention_mask=torch.from_numpy(batch.groups[:, 0] == 0).long(),
    )
    with use_mesh():
        hidden = everything(config, params, batch)[0]
    assert_close(output.pooled(params, hidden[:, 0]), expected.pooler_output.detach(), "pooled")


# ── GPT-2 writes ─────────────────────────────────────────────────────────────────────────────────────────────

PROMPTS = [[5, 9, 20], [77], [3, 3, 8, 60, 41, 1, 0]]


def test_a_gpt2_continues_as_without_a_cache_and_as_transformers_does() -> None:
    config = gpt2(context_length=32, num_layers=1)
    params = random_params(config)
    with use_mesh() as mesh:
        model = Transformer(config, VOCAB)
        found = Generator(model, mesh, params)(PROMPTS, Generation(max_new_tokens=12, temperature=0))

        def logits_of(tokens: jax.Array) -> jax.Array:
            hidden: Any = model.apply({"params": params}, tokens)
            return output.logits(config, params, hidden, VOCAB)

        whole = jax.jit(logits_of)
        for prompt, (sample,) in zip(PROMPTS, found, strict=True):
            text = prompt + sample.tokens
            padded = np.zeros((1, 32), np.int32)
            padded[0, : len(text)] = text
            logits = np.asarray(whole(padded))[0, len(prompt) - 1 : len(text) - 1]
            np.testing.assert_array_equal(sample.tokens, logits.argmax(-1))
            chances = np.asarray(jax.nn.log_softmax(logits)).max(-1)
            np.testing.assert_allclose(sample.log_probabilities, chances, atol=1e-4)
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    theirs = reference(config, params, "GPT2LMHeadModel")
    for prompt, (sample,) in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        out = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        assert sample.tokens == out[0, len(prompt) :].tolist()


def test_the_beams_of_a_gpt2_are_those_of_transformers() -> None:
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    config = gpt2(context_length=32, num_layers=1)
    params = random_params(config)
    with use_mesh() as mesh:
        settings = Generation(max_new_tokens=8, num_beams=3)
        found = Generator(Transformer(config, VOCAB), mesh, params)(PROMPTS, settings)
    theirs = reference(config, params, "GPT2LMHeadModel")
    for prompt, (beam,) in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        out = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_beams=3,
            do_sample=False,
            max_new_tokens=8,
            pad_token_id=0,
        )
        assert beam.tokens == out[0, len(prompt) :].tolist()


def test_a_bert_continues_nothing() -> None:
    config = bert()
    with use_mesh() as mesh, pytest.raises(UserError, match=r"model\.causal=False") as caught:
        Generator(Transformer(config, VOCAB), mesh, random_params(config))
    assert "Continuing a text needs" in str(caught.value)


# ── Size and start ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("layers", "width", "heads", "parameters"),
    [
        (12, 768, 12, 124_439_808),
        (24, 1024, 16, 354_823_168),
        (36, 1280, 20, 774_030_080),
        (48, 1600, 25, 1_557_611_200),
    ],
)
def test_every_gpt2_is_as_large_as_published(layers: int, width: int, heads: int, parameters: int) -> None:
    sizes = {"num_layers": layers, "num_heads": heads, "d_model": width, "d_ff": 4 * width}
    found = shapes(gpt2(**sizes, context_length=1024, unroll=1), 50_257)
    assert parameter_count(found, 50_257) == parameters


def test_berts_are_as_large_as_published() -> None:
    """Base with its pooler has 109,482,240 parameters; the output adds a dense layer, a norm and a bias."""
    for layers, width, heads, parameters in ((12, 768, 12, 109_482_240), (24, 1024, 16, 335_141_888)):
        sizes = {"num_layers": layers, "num_heads": heads, "d_model": width, "d_ff": 4 * width}
        found = shapes(bert(**sizes, context_length=512, unroll=1), 30_522)
        head = {name: found.pop(name) for name in list(found) if name.startswith(("transform", "output"))}
        assert parameter_count(found, 30_522) == parameters
        rows = len(found["tokens"])
        assert sum(leaf.size for leaf in head.values()) == width * width + 3 * width + rows


def fresh(config: ModelConfig) -> Any:
    with use_mesh() as mesh:
        return jax.device_get(initial_state(Transformer(config, VOCAB), optax.identity(), mesh, 0).params)


def test_a_gpt2_starts_with_smaller_residual_matrices_and_positions() -> None:
    """0.02 / √(2 L) as in the paper, and 0.01 as in the authors' code."""
    params = fresh(gpt2(num_layers=8, d_model=64, d_ff=256, context_length=256, unroll=1))
    deviations = {name: array.std() for name, array in params["blocks"].items() if "kernel" in name}
    deviations |= {"positions": params["positions"].std(), "tokens": params["tokens"][:VOCAB].std()}
    small = {"out_kernel": 0.005, "mlp_out_kernel": 0.005, "positions": 0.01}
    assert deviations == pytest.approx({name: small.get(name, 0.02) for name in deviations}, rel=0.03)


def test_a_bert_starts_within_two_deviations() -> None:
    params = fresh(bert(d_model=64, d_ff=256, context_length=256, unroll=1))
    arrays = {**params["blocks"], **params}
    for name in ("qkv_kernel", "mlp_out_kernel", "positions", "tokens", "transform_kernel", "pooler_kernel"):
        values = arrays[name][:VOCAB] if name == "tokens" else arrays[name]
        assert 0.038 < np.abs(values).max() <= 0.04, name
    assert not params["output_bias"].any()
