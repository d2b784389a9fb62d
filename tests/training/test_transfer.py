"""A trained run as the beginning of another: which parameters are taken, and from which runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from support import tiny_config, use_mesh

from gpt1_jax.config import Config
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.transfer import check_start, load_trunk, transfer

VOCAB, LAYERS = 100, 4


# ── What is taken ────────────────────────────────────────────────────────────────────────────────────────────


def trunk_of(number: float) -> Any:
    """A trunk's parameters, all of them `number`."""
    shapes = {
        "tokens": (128, 8),
        "positions": (16, 8),
        "blocks": {"qkv_kernel": (LAYERS, 8, 3, 2, 4), "out_bias": (LAYERS, 8)},
    }
    return jax.tree.map(
        lambda shape: jnp.full(shape, number), shapes, is_leaf=lambda leaf: isinstance(leaf, tuple)
    )


FRESH, TRAINED = trunk_of(0), trunk_of(1)


@pytest.mark.parametrize(("num_blocks", "taken"), [(None, 4), (4, 4), (3, 3), (1, 1), (0, 0)])
@pytest.mark.parametrize("jit", [False, True])
def test_embeddings_and_the_first_blocks_are_taken(num_blocks: int | None, taken: int, jit: bool) -> None:
    function = jax.jit(transfer, static_argnums=(2, 3)) if jit else transfer
    params = function(FRESH, TRAINED, VOCAB, num_blocks)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, FRESH)
    assert (params["positions"] == 1).all()
    assert (params["tokens"][:VOCAB] == 1).all()
    for name, stacked in params["blocks"].items():
        assert [block.mean() for block in stacked] == [1] * taken + [0] * (LAYERS - taken), name
        assert np.isin(stacked, (0, 1)).all()


@pytest.mark.parametrize("num_blocks", [None, 2, 0])
def test_the_embeddings_of_the_specials_stay_fresh(num_blocks: int | None) -> None:
    assert (transfer(FRESH, TRAINED, VOCAB, num_blocks)["tokens"][VOCAB:] == 0).all()


def test_of_minus_one_nothing_is_taken() -> None:
    params = transfer(FRESH, TRAINED, VOCAB, -1)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(params))


# ── From where ───────────────────────────────────────────────────────────────────────────────────────────────


TEXT = ["the quick brown fox jumps over the lazy dog and others follow it"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return train_sentencepiece(iter(TEXT), 300)


@pytest.fixture
def begun(tmp_path: Path, tokenizer: SentencePieceTokenizer) -> Iterator[Run]:
    """A run with a checkpoint's directory, as far as `check_start` looks."""
    run = Run(str(tmp_path / "begun"))
    run.record(tiny_config(), {})
    tokenizer.save(run.tokenizer)
    (run.checkpoints / "7").mkdir(parents=True)
    yield run


def start(run: Run, **overrides: Any) -> Config:
    return tiny_config(**{"init_from": str(run.directory)} | overrides)


def refusal(config: Config, tokenizer: SentencePieceTokenizer) -> str:
    """Returns the one sentence that refuses the start and names the run."""
    assert config.init_from is not None
    with pytest.raises(UserError) as error:
        check_start(config, config.init_from, tokenizer)
    told = str(error.value)
    assert "\n" not in told and told.endswith(".") and ". " not in told
    assert config.init_from in told
    return told


def test_a_run_of_the_same_model_and_tokenizer_may_be_started_from(
    begun: Run, tokenizer: SentencePieceTokenizer
) -> None:
    """Everything else may differ: dropout, how layers run, the source, the stage."""
    others = {"model.residual_dropout": 0.3, "model.unroll": 1, "data.source": "tfds", "finetune.task": "rte"}
    for config in (start(begun), start(begun, **others)):
        check_start(config, str(begun.directory), tokenizer)


@pytest.mark.parametrize(
    ("key", "mine"),
    [
        ("model.num_layers", 3),
        ("model.num_heads", 8),
        ("model.d_model", 64),
        ("model.d_ff", 96),
        ("model.context_length", 32),
    ],
)
def test_another_architecture_is_refused_by_name_with_both_values(
    begun: Run, tokenizer: SentencePieceTokenizer, key: str, mine: int
) -> None:
    section, name = key.split(".")
    its = getattr(getattr(tiny_config(), section), name)
    told = refusal(start(begun, **{key: mine}), tokenizer)
    assert f"{key}={its}" in told and f" {mine};" in told


def test_another_kind_of_trunk_is_refused_before_its_sizes(
    begun: Run, tokenizer: SentencePieceTokenizer
) -> None:
    told = refusal(start(begun, **{"model.kind": "lstm", "model.num_layers": 1}), tokenizer)
    assert "model.kind=transformer" in told and " lstm;" in told


def test_another_tokenizer_is_refused(begun: Run) -> None:
    other = train_sentencepiece(iter(TEXT), 290)
    config = start(begun, **{"data.tokenizer": "sentencepiece:/mine.model"})
    assert "data.tokenizer=sentencepiece:/mine.model" in refusal(config, other)


def test_a_run_without_a_checkpoint_is_refused(begun: Run, tokenizer: SentencePieceTokenizer) -> None:
    (begun.checkpoints / "7").rmdir()
    assert "has no checkpoint yet" in refusal(start(begun), tokenizer)


def test_a_directory_without_a_run_is_refused(tmp_path: Path, tokenizer: SentencePieceTokenizer) -> None:
    told = refusal(tiny_config(init_from=str(tmp_path)), tokenizer)
    assert "is not a run directory" in told


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_the_trunk_is_loaded_of_pre_trained_and_fine_tuned_runs(fine_tuned: bool, tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    run.record(tiny_config(**{"finetune.task": "cola"} if fine_tuned else {}), {})
    with use_mesh():
        trunk = jax.tree.map(lambda leaf: leaf + jnp.arange(leaf.size).reshape(leaf.shape), TRAINED)
        params = {"trunk": trunk, "head": {"bias": jnp.ones(3)}} if fine_tuned else trunk
        checkpoints = Checkpoints(epath.Path(run.checkpoints), keep=2)
        checkpoints.save(1, {"params": jax.tree.map(jnp.zeros_like, params), "step": jnp.int32(1)})
        checkpoints.save(2, {"params": params, "step": jnp.int32(2)})
        checkpoints.close()
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trunk)
        loaded = load_trunk(run, abstract, pytest.fail)
    jax.tree.map(np.testing.assert_array_equal, loaded, trunk)


def test_there_is_no_trunk_to_load_without_a_checkpoint(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    run.record(tiny_config(), {})
    with pytest.raises(UserError, match="has no checkpoint yet"):
        load_trunk(run, FRESH, pytest.fail)
