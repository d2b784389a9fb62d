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
class NormedModel(ModelConfig):
    """The schema's model and one more key, whose default is GPT-1's."""

    norm: Literal["post", "pre"] = setting(
        "post", OURS, "where a branch is normalized", architecture=True, before="post"
    )


@dataclass(frozen=True)
class NormedConfig(Config):
    """The schema with that model."""

    model: NormedModel = NormedModel()


@pytest.fixture
def pre(monkeypatch: pytest.MonkeyPatch) -> Config:
    """A config of the larger schema, which is the schema from now on, with another value than GPT-1's."""
    monkeypatch.setattr(schema_module, "ModelConfig", NormedModel)
    monkeypatch.setattr(schema_module, "Config", NormedConfig)
    monkeypatch.setattr(overrides, "Config", NormedConfig)
    values = to_dict(tiny_config())
    values["model"]["norm"] = "pre"
    return from_dict(values)


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return train_sentencepiece(
        iter(["the quick brown fox jumps over the lazy dog and others follow it"] * 3), 300
    )


@pytest.fixture
def begun(tmp_path: Path, pre: Config, tokenizer: SentencePieceTokenizer) -> Iterator[Run]:
    """Makes a run of that config, as far as anything looks before its parameters are read."""
    run = Run(str(tmp_path / "begun"))
    run.record(pre, {})
    tokenizer.save(run.tokenizer)
    (run.checkpoints / "7").mkdir(parents=True)
    yield run


def post(config: Config, **changes: Any) -> Config:
    return replace(config, model=replace(config.model, norm="post"), **changes)


def test_a_run_does_not_go_on_with_another_value(begun: Run, pre: Config) -> None:
    assert begun.changes(pre) == []
    with pytest.raises(UserError, match=r"begun with model\.norm=pre, not post"):
        begun.changes(post(pre))


def test_a_damaged_value_in_config_json_does_not_count(begun: Run, pre: Config) -> None:
    path = begun.directory / "config.json"
    path.write_text(path.read_text().replace('"pre"', '"post"'))
    assert begun.config() == pre


def test_no_run_starts_from_one_with_another_value(
    begun: Run, pre: Config, tokenizer: SentencePieceTokenizer
) -> None:
    place = str(begun.directory)
    check_start(replace(pre, init_from=place), place, tokenizer)
    with pytest.raises(UserError, match=r"has model\.norm=pre, this config has post; set model\.norm=pre"):
        check_start(post(pre, init_from=place), place, tokenizer)


def test_fine_tuning_inherits_it(begun: Run, tmp_path: Path) -> None:
    preset = runpy.run_path(str(ROOT / "configs" / "finetune.py"))["get_config"]("cola")
    assert preset.model.norm is None
    preset.init_from = str(begun.directory)
    assert from_dict(inherit(preset.to_dict(), str(tmp_path / "new"))).model.norm == "pre"


def test_no_format_holds_another_value_than_gpt1_has(begun: Run) -> None:
    with pytest.raises(UserError, match=r"model\.norm=pre, which no other format can hold"):
        read_run(str(begun.directory))


def test_a_run_from_before_it_goes_on(tmp_path: Path, pre: Config) -> None:
    values = to_dict(post(pre))
    del values["model"]["norm"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    run = Run(str(tmp_path))
    assert run.changes(post(pre)) == []
    with pytest.raises(UserError, match=r"begun with model\.norm=post, not pre"):
        run.changes(pre)


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
