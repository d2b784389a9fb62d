"""Checks what config files, runs and the command line say, and makes a Config of it."""

import copy
import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any

from gpt1_jax.config import Config, FinetuneConfig, ModelConfig, TrainConfig, schema
from gpt1_jax.errors import UserError
from gpt1_jax.keys import Key, sections
from gpt1_jax.wording import counted

# A number on the command line with more digits than this is out of range in any case.
_DIGITS = 1000
# What absl reads as a truth value.
_TRUTHS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


# ── The command line ─────────────────────────────────────────────────────────────────────────────────────────


def parse_override(name: str, text: str) -> Any:
    """Returns the value of one `--config.NAME=TEXT`, checked by itself against the schema before absl sees it.

    Raises:
        UserError: there is no such key (the nearest is suggested), or the text is not of its type or range.
    """
    known = schema()
    if name not in known:
        if inside := [key for key in known if key.startswith(f"{name}.")]:
            raise UserError(f"config.{name} is a section, not a value; set one of {', '.join(inside)}.")
        if above := [key for key in known if name.startswith(f"{key}.")]:
            raise UserError(
                f"config.{name} does not exist, because {above[0]} is a value; set config.{above[0]}."
            )
        raise _unknown(name)
    kind = known[name].kind
    value: Any = text
    if kind is bool:
        value = _TRUTHS.get(text.lower(), text)
    elif kind in (int, float):
        try:
            value = kind(text[:_DIGITS])
        except ValueError:
            raise _wrong_type(name, text, kind) from None
    return _checked(value, known[name])


# ── Dictionaries ─────────────────────────────────────────────────────────────────────────────────────────────


def from_dict(values: dict[str, Any]) -> Config:
    """Makes a checked config from nested dictionaries, such as a run's config.json.

    Raises:
        UserError: a key is unknown or missing, a value has a wrong type or is out of range, or fields do not fit.
    """
    return check(_build(Config, values, "", schema()))


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the config as nested dictionaries of JSON types."""
    return dataclasses.asdict(config)


def change(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dictionaries with other values under some dotted names.

    If the number of steps changes, that of epochs becomes 0, and the reverse, unless both are named.

    Raises:
        UserError: a key is unknown or its section absent, or a value has a wrong type or is out of range.
    """
    known, changed = schema(), copy.deepcopy({**values})
    rivals = {"train.num_steps": "train.num_epochs", "train.num_epochs": "train.num_steps"}
    silent = {other: 0 for key, other in rivals.items() if changes.get(key) and other not in changes}
    for name, value in {**changes, **silent}.items():
        if name not in known:
            raise _unknown(name)
        *path, last = name.split(".")
        section = changed
        for part in path:
            section = section.get(part)
            if section is None:
                raise UserError(f"config.{name} does not go with a config that has no {part}; leave it out.")
        section[last] = _checked(value, known[name])
    return changed


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dictionaries into one with dotted names."""
    flat = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _build(section: type, values: dict[str, Any], prefix: str, known: dict[str, Key]) -> Any:
    names, inner = [field.name for field in dataclasses.fields(section)], sections(section)
    for name in values:
        if name not in names:
            raise _unknown(f"{prefix}{name}")
    built = {}
    for name in names:
        full = prefix + name
        kind, optional = inner.get(name, (None, False))
        if optional and values.get(name) is None:
            continue
        if name not in values:
            if kind is None and known[full].before is not MISSING:
                continue
            raise UserError(f"config.{full} is missing; a config sets every key that has no older value.")
        if kind is None:
            built[name] = _checked(values[name], known[full])
        elif isinstance(values[name], dict):
            built[name] = _build(kind, values[name], f"{full}.", known)
        else:
            raise UserError(f"config.{full}={_shown(values[name])} is not a section; set its keys instead.")
    return section(**built)


# ── Checks ───────────────────────────────────────────────────────────────────────────────────────────────────


def check(config: Config) -> Config:
    """Returns the config if its fields fit each other.

    Raises:
        UserError: some fields do not fit; the error names them.
    """
    _check_model(config.model)
    _check_train(config.train)
    if config.data.whole_words and config.model.causal:
        raise UserError(
            "data.whole_words=True is for models that fill masks, and model.causal=True predicts next tokens; set one "
            "of them to False."
        )
    _check_documents(config)
    if config.finetune:
        _check_finetune(config.finetune, config.model, config.init_from)
    _check_mesh({"data": config.mesh.data, "fsdp": config.mesh.fsdp, "tensor": config.mesh.tensor})
    return config


def _check_model(model: ModelConfig) -> None:
    if model.kind == "transformer" and model.d_model % model.num_heads:
        raise UserError(
            f"model.d_model={model.d_model} does not divide into model.num_heads={counted(model.num_heads, 'head')}; "
            "set one so that the width is a multiple of the heads."
        )
    if model.num_heads * model.context_length**2 > 2**32:
        raise UserError(
            f"model.num_heads={model.num_heads} times the square of model.context_length={model.context_length} is "
            "more than 2**32, the attention weights that dropout tells apart; shorten the context."
        )
    if not model.causal and model.context_length < 3:
        raise UserError(
            f"model.context_length={model.context_length} leaves no room for a text between [CLS] and [SEP]; set 3 or "
            "more."
        )
    if model.kind == "lstm" and model.num_layers != 1:
        raise UserError(
            f"model.num_layers={model.num_layers} does not go with model.kind=lstm, the paper's single layer; set 1."
        )
    if model.kind == "lstm":
        for name, value in {
            "norm": "post",
            "causal": True,
            "token_types": 0,
            "embedding_norm": False,
        }.items():
            if (given := getattr(model, name)) != value:
                raise UserError(
                    f"model.{name}={given} does not go with model.kind=lstm, the paper's ablation; set {value}."
                )


def _check_train(train: TrainConfig) -> None:
    if train.batch_size % train.accumulation:
        raise UserError(
            f"train.batch_size={train.batch_size} does not divide into train.accumulation="
            f"{train.accumulation} micro-batches; set a batch size that is a multiple of it."
        )
    if not train.num_steps and not train.num_epochs:
        raise UserError(
            "train.num_steps=0 and train.num_epochs=0 leave nothing to do; set one of them above 0."
        )
    if train.num_steps and train.num_epochs:
        raise UserError(
            f"train.num_steps={train.num_steps} and train.num_epochs={train.num_epochs:g} both say how long; "
            "set one of them to 0."
        )
    if train.profile_steps:
        match = re.fullmatch(r"([1-9][0-9]{,17}):([0-9]{1,18})", train.profile_steps)
        if match is None or int(match[1]) > int(match[2]):
            raise UserError(
                f"train.profile_steps={train.profile_steps} is not a range of steps; write FIRST:LAST such as 10:15."
            )


def _check_finetune(finetune: FinetuneConfig, model: ModelConfig, init_from: str | None) -> None:
    if finetune.softmax == "authors" and not model.causal:
        raise UserError(
            "finetune.softmax=authors does not go with model.causal=False, which has no auxiliary language model; set "
            "tokens."
        )
    if finetune.softmax == "authors" and model.kind == "lstm":
        raise UserError(
            "finetune.softmax=authors does not go with model.kind=lstm, which has no rows of positions; set tokens."
        )
    if finetune.kind == "completion":
        for name, value in {"kind": "transformer", "causal": True}.items():
            if (given := getattr(model, name)) != value:
                raise UserError(
                    f"finetune.kind=completion needs a model that continues text, and model.{name}={given} does not; "
                    "name a run of a causal Transformer with init_from."
                )
    if init_from is None:
        raise UserError(
            "config.init_from is missing; fine-tuning takes the run directory of a pre-trained model."
        )
    if model.context_length < 8:
        raise UserError(
            f"model.context_length={model.context_length} leaves no room for a text beside the three special tokens; "
            "fine-tune a model with a context of 8 or more."
        )
    if (finetune.num_transfer_layers or 0) > model.num_layers:
        raise UserError(
            f"finetune.num_transfer_layers={finetune.num_transfer_layers} is more than the "
            f"{counted(model.num_layers, 'block')} of the model; set at most {model.num_layers}."
        )


def _check_mesh(axes: dict[str, int]) -> None:
    for name, size in axes.items():
        if size == 0:
            raise UserError(
                f"mesh.{name}=0 is not a mesh; set 1 for an unused axis or -1 to take what remains."
            )
    if list(axes.values()).count(-1) > 1:
        raise UserError(
            f"mesh={axes} has more than one axis of -1; only one can take the devices that remain, so set the others."
        )


def _check_documents(config: Config) -> None:
    """Refuses to tell documents apart where nothing can, or where there are none."""
    data = config.data
    if data.restart_positions and not data.mask_documents:
        raise UserError(
            "data.restart_positions=True needs data.mask_documents=True: positions that begin anew tell nothing apart "
            "that attends to each other; set both, or neither."
        )
    if data.without is not None and config.finetune:
        raise UserError(
            f"data.without={data.without} names documents of a text, and fine-tuning reads examples; leave it out."
        )
    if data.mask_documents and config.model.kind == "lstm":
        raise UserError(
            "data.mask_documents=True does not go with model.kind=lstm, which reads a window from end to end; set it "
            "to False."
        )


def _checked(value: Any, key: Key) -> Any:
    """Returns a value of the key's type and range.

    Raises:
        UserError: the value has another type or is out of range.
    """
    name, kind = key.name, key.kind
    if value is None and key.optional:
        return None
    if key.choices:
        if value not in key.choices:
            raise UserError(
                f"config.{name}={_shown(value)} is not one of {', '.join(key.choices)}; set one of them."
            )
        return value
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise _wrong_type(name, value, kind)
    for limit in key.ranges:
        if not limit.allows(typing.cast(float, value)):
            raise UserError(f"config.{name}={_shown(value)} is out of range; set a value {limit}.")
    return float(typing.cast(Any, value)) if kind is float else value


def _unknown(name: str) -> UserError:
    known = list(schema())
    section = name.rpartition(".")[0]
    near = [key for key in known if section and key.startswith(f"{section}.")] or known
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    nearest += difflib.get_close_matches(name, near, n=1, cutoff=0)
    return UserError(f"config.{name} is not a key of the config; did you mean {nearest[0]}?")


def _wrong_type(name: str, value: Any, kind: type) -> UserError:
    expected = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    return UserError(f"config.{name}={_shown(value)} is not {expected}; set it to {expected}.")


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:
        # Python writes no whole numbers of more than 4,300 digits.
        return "(too many digits)"
