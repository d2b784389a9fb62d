"""What a fine-tuned model says of an example is the same in any company, in a row of its own or among others."""

import dataclasses
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from support import tiny_model, use_mesh

from gpt1_jax.config import ModelConfig
from gpt1_jax.data.packing import Packed, pack
from gpt1_jax.model.heads import Classifier, Head, Pooling
from gpt1_jax.model.specials import SPECIALS, special_ids
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.tasks.batches import assemble
from gpt1_jax.tasks.encoded import EncodedExamples
from gpt1_jax.training import predicting
from gpt1_jax.training.predicting import make_predict
from gpt1_jax.training.state import abstract_params

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCAB, CONTEXT = 50, 64
IDS = special_ids(VOCAB)
KEPT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt1": {},
    "gpt2": {"norm": "pre"},
    "bert": {"causal": False, "token_types": 2, "embedding_norm": True, "activation": "gelu"},
    "lstm": {"kind": "lstm"},
}
SEQUENCES: dict[Pooling, int] = {"one": 1, "sum": 2, "each": 4}


def config_of(family: str) -> ModelConfig:
    sizes = tiny_model(d_model=32, num_heads=2, context_length=CONTEXT, unroll=1, **KEPT)
    return dataclasses.replace(sizes, **FAMILIES[family])


def make_model(family: str, pooling: Pooling) -> Classifier:
    trunk = make_trunk(config_of(family), VOCAB, specials=SPECIALS)
    return Classifier(trunk, Head(pooling, 1 if pooling == "each" else 3, 0.0), IDS.extract)


@cache
def random_params(family: str, pooling: Pooling) -> Any:
    generator = np.random.default_rng(0)
    with use_mesh() as mesh:
        shapes = abstract_params(make_model(family, pooling), mesh)
    return jax.tree.map(lambda leaf: generator.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def random_examples(family: str, pooling: Pooling, count: int) -> EncodedExamples:
    """Sequences of 4 to 60 tokens, the most of them short, that end with the extract token."""
    generator = np.random.default_rng(1)
    lengths = np.minimum(generator.geometric(0.06, count * SEQUENCES[pooling]) + 3, 60)
    sequences = [[*generator.integers(0, VOCAB, length - 1), IDS.extract] for length in lengths]
    return EncodedExamples(
        np.concatenate(sequences),
        np.cumsum([0, *lengths]),
        np.zeros((count, 4 if pooling == "each" else 3), np.float32),
        np.zeros(count, np.int64),
        seconds=generator.integers(1, lengths),
        both_ways=family == "bert",
    )


def alone(model: Classifier, params: Any, examples: EncodedExamples, number: int) -> np.ndarray:
    """The logits of an example in a batch of its own, of which all states are computed."""
    batch = assemble(examples, np.array([number]), 1, CONTEXT, np.array([number]))
    logits, _ = model.apply({"params": params}, batch.tokens, None, batch.types, batch.groups)
    return np.asarray(logits)[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", SEQUENCES)
def test_company_changes_nothing(family: str, pooling: Pooling) -> None:
    model, params = make_model(family, pooling), random_params(family, pooling)
    examples = random_examples(family, pooling, 30)
    with use_mesh() as mesh:
        predict = make_predict(model, mesh)
        in_few_shapes, six_at_once = predict(params, examples, None), predict(params, examples, 6)
        for number in range(0, 30, 5):
            expected = alone(model, params, examples, number)
            np.testing.assert_allclose(in_few_shapes[number], expected, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(six_at_once[number], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("family", ["gpt1", "bert"])
def test_the_mesh_changes_nothing(family: str, axes: tuple[int, int, int]) -> None:
    model, params = make_model(family, "sum"), random_params(family, "sum")
    examples = random_examples(family, "sum", 30)
    with use_mesh() as mesh:
        expected = make_predict(model, mesh)(params, examples, None)
    with use_mesh(*axes) as mesh:
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(model, mesh))
        found = make_predict(model, mesh)(jax.device_put(params, places), examples, None)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Packed]:
    """The batches that predictions were computed in."""
    seen: list[Packed] = []

    def remember(*arguments: Any, **settings: Any) -> list[Packed]:
        found = pack(*arguments, **settings)
        seen.extend(found)
        return found

    monkeypatch.setattr(predicting, "pack", remember)
    return seen


def test_a_transformer_reads_several_sequences_in_a_row_and_an_lstm_one(batches: list[Packed]) -> None:
    for family, several in (("gpt1", True), ("lstm", False)):
        batches.clear()
        with use_mesh() as mesh:
            make_predict(make_model(family, "one"), mesh)(
                random_params(family, "one"), random_examples(family, "one", 40), None
            )
        assert {packed.several for packed in batches} == {several}
    assert max(packed.rows.max() for packed in batches) > 1


def test_many_examples_come_in_parts_with_one_progress(
    batches: list[Packed], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, params = make_model("gpt1", "sum"), random_params("gpt1", "sum")
    examples, told = random_examples("gpt1", "sum", 30), []
    with use_mesh() as mesh:
        whole = make_predict(model, mesh)(params, examples, 6)
        monkeypatch.setattr(predicting, "_EXAMPLES_AT_ONCE", 8)
        batches.clear()
        parts = make_predict(model, mesh)(params, examples, 6, lambda done, total: told.append((done, total)))
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-4)
    assert told == [(done, len(batches)) for done in range(1, len(batches) + 1)]
    assert max(packed.numbers.max() for packed in batches) < 2 * 8


def test_in_training_batches_have_the_rows_that_were_asked_for_in_two_widths(batches: list[Packed]) -> None:
    for family in ("gpt1", "lstm"):
        batches.clear()
        examples = random_examples(family, "sum", 100)
        with use_mesh() as mesh:
            make_predict(make_model(family, "sum"), mesh)(random_params(family, "sum"), examples, 3)
        assert {packed.shape[0] for packed in batches} == {3 * 2}
        assert len({packed.shape[1] for packed in batches}) <= 2
