"""The schema: what goes in comes out, and what does not fit is refused by name, with a way to mend it."""

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import ml_collections
import pytest
from ml_collections import config_dict
from support import tiny_config

from configs import pretrain
from gpt1_jax import config_flag
from gpt1_jax.config import Config, schema, to_config_dict
from gpt1_jax.config_flag import packaged
from gpt1_jax.errors import UserError
from gpt1_jax.old_runs import fill_before
from gpt1_jax.overrides import check, flatten, from_dict, parse_override, to_dict


def changed(key: str, value: Any) -> dict[str, Any]:
    """The tiny preset's dictionaries with one dotted key set."""
    values = to_dict(pretrain.tiny())
    *path, name = key.split(".")
    section = values
    for part in path:
        section = section[part]
    section[name] = value
    return values


def message_of(function: Any, *arguments: Any) -> str:
    """The one line of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


PRESETS = list(pretrain.PRESETS.values())


# ── Round trips ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_valid_and_comes_back_whole(preset: Any) -> None:
    config = preset()
    assert check(config) is config
    assert from_dict(to_config_dict(config).to_dict()) == config
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", pretrain.PRESETS)
def test_the_config_file_gives_its_presets(name: str) -> None:
    assert from_dict(pretrain.get_config(name).to_dict()) == pretrain.PRESETS[name]()


def test_a_config_file_of_ones_own_may_set_every_key_as_earlier_ones_did(tmp_path: Path) -> None:
    config, file = pretrain.tiny(), tmp_path / "own.py"
    sections = [type(value).__name__ for value in vars(config).values() if dataclasses.is_dataclass(value)]
    file.write_text(
        f"from gpt1_jax.config import Config, {', '.join(sections)}, to_config_dict\n"
        f"def get_config():\n    return to_config_dict({config!r})\n"
    )
    assert from_dict(config_flag._FileParser().parse(str(file)).to_dict()) == config


def test_an_unknown_preset_is_refused_and_the_others_named() -> None:
    message = message_of(pretrain.get_config, "gigantic")
    assert "gigantic" in message
    assert all(name in message for name in pretrain.PRESETS)


def test_no_preset_is_the_paper() -> None:
    """Section 4.1 and the authors' code; what is ours alone is not asserted."""
    config = pretrain.paper()
    model, train, optimizer = config.model, config.train, config.optimizer
    assert (model.num_layers, model.num_heads, model.d_model, model.d_ff) == (12, 12, 768, 3072)
    assert model.context_length == 512
    assert model.embedding_dropout == model.attention_dropout == model.residual_dropout == 0.1
    assert config.data.vocab_size == 40_478
    assert train.batch_size == 64
    # 100 epochs of some 10⁹ tokens.
    assert train.num_epochs == 0 and train.num_steps == pytest.approx(100 * 1e9 / (64 * 512), rel=0.05)
    assert (optimizer.learning_rate, optimizer.schedule, optimizer.warmup_steps) == (2.5e-4, "cosine", 2000)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.01, 1)
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.9, 0.999, 1e-8)


@pytest.mark.parametrize("task", ["rte", "demo_genre"])
def test_the_authors_setting_is_that_of_fine_tuning_but_for_their_switches(task: str) -> None:
    ours, theirs = (
        flatten(runpy.run_path(str(packaged()[name]))["get_config"](task).to_dict())
        for name in ("finetune", "finetune_authors")
    )
    assert {key: value for key, value in theirs.items() if value != ours[key]} == {
        "model.embedding_dropout_form": "matrix",
        "model.dtype": "float32",
        "train.eval_every": -1,
        "finetune.batching": "shuffled",
        "finetune.remainder": "dropped",
        "finetune.softmax": "authors",
    }
    assert theirs["finetune.select"] == "best" and theirs["optimizer.schedule"] == "linear"


def test_whole_numbers_become_floats_where_the_field_is_one() -> None:
    config = from_dict(changed("optimizer.learning_rate", 1))
    assert type(config.optimizer.learning_rate) is float


@pytest.mark.parametrize("section, name", [(None, "init_from"), ("data", "tfds_dir")])
def test_an_optional_field_is_a_placeholder_that_can_be_set(section: str | None, name: str) -> None:
    values = to_config_dict(pretrain.tiny()).lock()
    part = values[section] if section else values
    assert isinstance(part.get_ref(name), config_dict.FieldReference)
    part[name] = "elsewhere"
    config = from_dict(values.to_dict())
    assert getattr(getattr(config, section) if section else config, name) == "elsewhere"
    with pytest.raises(TypeError):
        part[name] = 3


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        pretrain.tiny().model.num_layers = 3  # pyright: ignore


# ── Refusals ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("sead", "seed"),
        ("initfrom", "init_from"),
        ("model.nun_layers", "model.num_layers"),
        ("model.hidden_dropout", "model.embedding_dropout"),
        ("train.batchsize", "train.batch_size"),
        ("optimizer.lerning_rate", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("model.batch_size", "train.batch_size"),
        ("mesh.model", "mesh."),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    message = message_of(parse_override, key, "1")
    assert f"config.{key} " in message
    assert f"did you mean {nearest}" in message
    assert f"did you mean {nearest}" in message_of(from_dict, changed(key, 1))


def test_an_unknown_section_names_the_nearest_key() -> None:
    assert "did you mean model.num_heads?" in message_of(parse_override, "models.num_heads", "1")


def test_a_missing_key_is_named() -> None:
    values = to_dict(pretrain.tiny())
    del values["train"]["batch_size"]
    assert "config.train.batch_size is missing" in message_of(from_dict, values)


def test_a_section_is_not_a_value() -> None:
    assert "config.model=3" in message_of(from_dict, changed("model", 3))
    message = message_of(parse_override, "model", "3")
    assert "config.model is a section" in message
    assert "model.num_layers" in message


def test_a_value_has_no_keys() -> None:
    assert "config.seed.x does not exist" in message_of(parse_override, "seed.x", "3")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seed", 1.5, "a whole number"),
        ("seed", True, "a whole number"),
        ("model.num_layers", "3", "a whole number"),
        ("model.num_layers", None, "a whole number"),
        ("optimizer.learning_rate", "fast", "a number"),
        ("train.num_epochs", False, "a number"),
        ("data.source", 3, "a text"),
        ("data.source", None, "a text"),
        ("init_from", 3, "a text"),
        ("model.dtype", "float64", "float32, bfloat16"),
        ("model.remat", 1, "none, full, dots"),
        ("model.causal", 1, "true or false"),
    ],
)
def test_a_wrong_type_is_refused(key: str, value: Any, expected: str) -> None:
    message = message_of(from_dict, changed(key, value))
    assert f"config.{key}={value!r}" in message
    assert expected in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("model.num_layers", 0),
        ("model.context_length", 1),
        ("model.embedding_dropout", 1.0),
        ("model.attention_dropout", -0.1),
        ("model.unroll", -1),
        ("data.vocab_size", 0),
        ("train.num_epochs", -0.5),
        ("train.batch_size", 0),
        ("train.log_every", 0),
        ("train.keep_checkpoints", 1),
        ("optimizer.learning_rate", float("nan")),
        ("optimizer.learning_rate", float("inf")),
        ("optimizer.beta2", 1.0),
        ("mesh.data", -2),
    ],
)
def test_a_value_out_of_range_is_refused(key: str, value: float) -> None:
    message = message_of(from_dict, changed(key, value))
    assert f"config.{key}={value}" in message
    assert "out of range; set a value" in message
    assert "out of range" in message_of(parse_override, key, str(value))


@pytest.mark.parametrize(
    ("overrides", "fields"),
    [
        ({"model.d_model": 30}, ("model.d_model=30", "model.num_heads=4")),
        ({"train.batch_size": 8, "train.accumulation": 3}, ("train.batch_size=8", "train.accumulation=3")),
        ({"train.num_steps": 0}, ("train.num_steps=0", "train.num_epochs=0")),
        ({"mesh.tensor": 0}, ("mesh.tensor=0",)),
        (
            {"model.kind": "lstm", "model.num_layers": 1, "model.norm": "pre"},
            ("model.norm=pre", "model.kind=lstm"),
        ),
        (
            {"model.causal": False, "finetune.softmax": "authors"},
            ("finetune.softmax=authors", "model.causal=False"),
        ),
        ({"mesh.data": -1, "mesh.fsdp": -1}, ("mesh=", "-1")),
    ],
)
def test_fields_that_do_not_fit_each_other_are_named(
    overrides: dict[str, int], fields: tuple[str, ...]
) -> None:
    message = message_of(lambda: tiny_config(**overrides))
    assert all(field in message for field in fields)
    assert "; " in message  # behind it, how to mend it


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.num_steps": 0, "train.num_epochs": 0.5},
        {"optimizer.warmup_steps": 10_000, "train.eval_every": 10_000, "train.checkpoint_every": 10_000},
        {"model.embedding_dropout": 0.0, "optimizer.learning_rate": 0.0, "optimizer.clip_norm": 0.0},
        {"train.batch_size": 6, "train.accumulation": 3},
        {"mesh.data": 2, "mesh.fsdp": -1},
    ],
)
def test_what_is_allowed(overrides: dict[str, Any]) -> None:
    assert isinstance(tiny_config(**overrides), Config)


# ── Overrides from the command line ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("seed", "7", 7),
        ("mesh.data", "-1", -1),
        ("optimizer.learning_rate", "1e-3", 1e-3),
        ("optimizer.learning_rate", "1", 1.0),
        ("train.num_epochs", ".5", 0.5),
        ("model.dtype", "bfloat16", "bfloat16"),
        ("model.causal", "False", False),
        ("model.embedding_norm", "true", True),
        ("model.attention", "plain", "plain"),
        ("data.source", "text:a=b:*.txt", "text:a=b:*.txt"),
        ("data.vocab_size", "8192", 8192),
        ("init_from", "runs/other", "runs/other"),
        ("data.tfds_dir", "/data", "/data"),
    ],
)
def test_an_override_becomes_its_type(key: str, text: str, value: Any) -> None:
    parsed = parse_override(key, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("seed", "", "a whole number"),
        ("seed", "1.0", "a whole number"),
        ("seed", "0x1f", "a whole number"),
        ("model.num_layers", "three", "a whole number"),
        ("optimizer.learning_rate", "1e-3x", "a number"),
        ("model.dtype", "Float32", "float32, bfloat16"),
        ("optimizer.name", "sgd", "openai_adam, adamw"),
    ],
)
def test_an_override_of_the_wrong_type_is_refused(key: str, text: str, expected: str) -> None:
    message = message_of(parse_override, key, text)
    assert f"config.{key}={text!r}" in message
    assert expected in message


def test_every_key_can_be_overridden() -> None:
    """Each key's own value, as text, parses to itself."""

    def walk(values: dict[str, Any], prefix: str = "") -> int:
        count = 0
        for name, value in values.items():
            if isinstance(value, dict):
                count += walk(value, f"{prefix}{name}.")
            else:
                assert parse_override(prefix + name, str(value)) == (str(value) if value is None else value)
                count += 1
        return count

    values = to_dict(pretrain.tiny())
    del values["finetune"]  # a section that is not there
    assert walk(values) > 40


def test_a_config_dict_keeps_the_types_of_what_is_set() -> None:
    values = to_config_dict(pretrain.tiny())
    assert isinstance(values.model, ml_collections.ConfigDict)
    values.train.num_steps = 9
    assert from_dict(values.to_dict()).train.num_steps == 9
    with pytest.raises(TypeError):
        values.train.num_steps = "nine"


# ── How long ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_steps_and_epochs_at_once_are_refused() -> None:
    message = message_of(lambda: tiny_config(**{"train.num_steps": 5, "train.num_epochs": 2}))
    assert "train.num_steps=5" in message and "train.num_epochs=2" in message


def test_a_run_of_earlier_days_that_keeps_both_is_one_of_so_many_steps() -> None:
    values = to_dict(pretrain.tiny())
    values["train"] |= {"num_steps": 375, "num_epochs": 3.0}
    train = from_dict(fill_before(values)).train
    assert (train.num_steps, train.num_epochs) == (375, 0.0)


# ── Sizes that no machine has ────────────────────────────────────────────────────────────────────────────────


def numbers() -> list[tuple[str, type]]:
    """Every key of the schema that takes a number, and whether a whole one."""
    found = []
    for key in schema():
        for kind, text in ((int, "1.5"), (float, "x")):
            try:
                parse_override(key, text)
            except UserError as error:
                if ("a whole number" if kind is int else "is not a number") in str(error):
                    found.append((key, kind))
                    break
    return found


@pytest.mark.parametrize(("key", "kind"), numbers())
def test_every_number_has_bounds(key: str, kind: type) -> None:
    texts = ["1" + "0" * 25, "-" + "9" * 400, "9" * 5000]
    texts += ["1e300", "inf", "-inf", "nan", "1e400"] if kind is float else []
    for text in texts:
        message = message_of(parse_override, key, text)
        assert f"config.{key}=" in message and "out of range; set a value at least" in message
        assert len(message) < 2500


def test_numbers_are_found() -> None:
    assert len(numbers()) > 30 and ("train.batch_size", int) in numbers()


@pytest.mark.parametrize("digits", [25, 400, 5000])
@pytest.mark.parametrize("key", ["train.batch_size", "optimizer.learning_rate"])
def test_a_number_of_any_length_in_a_file_is_refused(key: str, digits: int) -> None:
    value = 10**digits
    assert "out of range" in message_of(from_dict, changed(key, value))
    assert "is not a text" in message_of(from_dict, changed("data.source", value))
    assert "is not one of" in message_of(from_dict, changed("model.dtype", [value]))
