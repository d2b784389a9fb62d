"""A key that decides what parameters mean says so on itself, and all who take parameters from elsewhere heed it."""

import json
import runpy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from command_support import ROOT
from support import tiny_config

from gpt1_jax import config as schema_module
from gpt1_jax import overrides
from gpt1_jax.config import Config, ModelConfig, schema, to_config_dict
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from gpt1_jax.errors import UserError
from gpt1_jax.interop.run_directory import read_run
from gpt1_jax.keys import OURS, setting
from gpt1_jax.overrides import from_dict, to_dict
from gpt1_jax.run import Run, inherit
from gpt1_jax.training.transfer import check_start


@dataclass(frozen=True)
class GatedModel(ModelConfig):
    """The schema's model and one more key, whose default is GPT-1's."""

    gate: Literal["none", "linear"] = setting(
        "none", OURS, "what a branch is multiplied with", architecture=True, before="none"
    )


@dataclass(frozen=True)
class GatedConfig(Config):
    """The schema with that model."""

    model: GatedModel = GatedModel()


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> Config:
    """A config of the larger schema, which is the schema from now on, with another value than GPT-1's."""
    monkeypatch.setattr(schema_module, "ModelConfig", GatedModel)
    monkeypatch.setattr(schema_module, "Config", GatedConfig)
    monkeypatch.setattr(overrides, "Config", GatedConfig)
    values = to_dict(tiny_config())
    values["model"]["gate"] = "linear"
    return from_dict(values)


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return train_sentencepiece(
        iter(["the quick brown fox jumps over the lazy dog and others follow it"] * 3), 300
    )


@pytest.fixture
def begun(tmp_path: Path, gated: Config, tokenizer: SentencePieceTokenizer) -> Iterator[Run]:
    """Makes a run of that config, as far as anything looks before its parameters are read."""
    run = Run(str(tmp_path / "begun"))
    run.record(gated, {})
    tokenizer.save(run.tokenizer)
    (run.checkpoints / "7").mkdir(parents=True)
    yield run


def ungated(config: Config, **changes: Any) -> Config:
    return replace(config, model=replace(config.model, gate="none"), **changes)


def test_a_run_does_not_go_on_with_another_value(begun: Run, gated: Config) -> None:
    assert begun.changes(gated) == []
    with pytest.raises(UserError, match=r"begun with model\.gate=linear, not none"):
        begun.changes(ungated(gated))


def test_a_damaged_value_in_config_json_does_not_count(begun: Run, gated: Config) -> None:
    path = begun.directory / "config.json"
    path.write_text(path.read_text().replace('"linear"', '"none"'))
    assert begun.config() == gated


def test_no_run_starts_from_one_with_another_value(
    begun: Run, gated: Config, tokenizer: SentencePieceTokenizer
) -> None:
    place = str(begun.directory)
    check_start(replace(gated, init_from=place), place, tokenizer)
    with pytest.raises(
        UserError, match=r"has model\.gate=linear, this config has none; set model\.gate=linear"
    ):
        check_start(ungated(gated, init_from=place), place, tokenizer)


def test_fine_tuning_inherits_it(begun: Run, tmp_path: Path) -> None:
    preset = runpy.run_path(str(ROOT / "configs" / "finetune.py"))["get_config"]("cola")
    assert preset.model.gate is None
    preset.init_from = str(begun.directory)
    model: Any = from_dict(inherit(preset.to_dict(), str(tmp_path / "new"))).model
    assert model.gate == "linear"


def test_no_format_holds_another_value_than_gpt1_has(begun: Run) -> None:
    with pytest.raises(UserError, match=r"model\.gate=linear, which no other format can hold"):
        read_run(str(begun.directory))


def test_a_run_from_before_it_goes_on(tmp_path: Path, gated: Config) -> None:
    values = to_dict(ungated(gated))
    del values["model"]["gate"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    run = Run(str(tmp_path))
    assert run.changes(ungated(gated)) == []
    with pytest.raises(UserError, match=r"begun with model\.gate=none, not linear"):
        run.changes(gated)


def test_what_decides_the_architecture_is_fixed() -> None:
    keys = [key for key in schema().values() if key.architecture]
    assert {"model.kind", "model.num_layers", "model.d_model"} <= {key.name for key in keys}
    assert all(key.fixed for key in keys)


def test_every_key_says_what_it_means() -> None:
    assert all(key.help and key.source in ("paper", "code", "ours") for key in schema().values())


def test_the_defaults_are_a_whole_config_that_needs_nothing_else() -> None:
    config = Config()
    assert from_dict(to_dict(config)) == config
    assert from_dict(to_config_dict(config).to_dict()) == config
