"""The schema of a run: frozen dataclasses, checked whole, to and from ml_collections' ConfigDict.

Every key a config file or the command line may set is declared here once, with its type and range.
"""

import dataclasses
import difflib
import re
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import ml_collections
from ml_collections import config_dict

from gpt1_jax.errors import UserError


@dataclass(frozen=True)
class Range:
    """Where a number must lie: at least `minimum` and below `below`, so that sums and products of it stay numbers."""

    minimum: float
    below: float

    def allows(self, value: float) -> bool:
        """Whether a value lies within, which NaN does not."""
        return self.minimum <= value < self.below

    def __str__(self) -> str:
        return f"at least {self.minimum} and below {self.below}"


Count = Annotated[int, Range(1, below=2**63)]
Amount = Annotated[int, Range(0, below=2**63)]
Steps = Annotated[int, Range(0, below=2**31)]  # counted on the devices
Size = Annotated[int, Range(1, below=2**20)]  # of the model
Rate = Annotated[float, Range(0, below=1)]
NonNegative = Annotated[float, Range(0, below=10**10)]  # its square is a float32
MeshAxis = Annotated[int, Range(-1, below=2**20)]


@dataclass(frozen=True)
class ModelConfig:
    """The decoder. Letters: L layers, H heads, D d_model, F d_ff, C context_length.

    The LSTM of the paper's ablation reads d_ff as its units and d_model as the width of its embeddings; it has
    one layer, and no heads or attention dropout.
    """

    kind: Literal["transformer", "lstm"]
    num_layers: Size
    num_heads: Size
    d_model: Size
    d_ff: Size
    context_length: Annotated[int, Range(2, below=2**20)]
    embedding_dropout: Rate
    attention_dropout: Rate
    residual_dropout: Rate
    dtype: Literal["float32", "bfloat16"]  # of activations; parameters are always float32
    attention: Literal["auto", "plain", "chunked", "flash", "splash", "cudnn"]  # see model/kernels/choice.py
    # Layers a scan iteration holds; 0 is all of them, or one under remat, which needs the loop.
    unroll: Annotated[int, Range(0, below=2**20)]
    remat: Literal["none", "full", "dots"]  # what the backward pass computes again; dots keeps matmuls


@dataclass(frozen=True)
class DataConfig:
    """Where the text and the tokenizer come from."""

    source: str  # demo | text:GLOB | tfds:NAME[#FEATURE]; of a task: tfds | files:PATH | demo
    tokenizer: str  # sentencepiece | sentencepiece:FILE.model | openai:DIR
    vocab_size: Annotated[int, Range(1, below=2**24)]  # pieces of a tokenizer trained here
    cache_dir: str  # tokenized corpora, shared between runs
    tfds_dir: str | None  # where TFDS sets are prepared; none is TFDS's own default
    # Draws what is held out of a text or a table that has no validation part of its own, apart from `seed`, so that
    # runs of several seeds are judged on the same rows; -1 is every 20th document, and every 10th or 20th row.
    split_seed: Annotated[int, Range(-1, below=2**32)] = 0


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, and how often to look and to save."""

    num_steps: Steps
    num_epochs: NonNegative  # in place of num_steps, which it comes to when the data is known
    batch_size: Annotated[int, Range(1, below=2**24)]  # sequences an update, over all devices
    accumulation: Annotated[int, Range(1, below=2**24)]  # micro-batches an update is split into
    log_every: Count
    eval_every: Amount  # 0 is once an epoch
    eval_batches: Amount  # 0 is the whole validation part, as it always is in fine-tuning
    checkpoint_every: Amount  # 0 is once an epoch; the best evaluation's is saved and kept in any case
    # The newest ones; two, so that a damaged one can be passed over.
    keep_checkpoints: Annotated[int, Range(2, below=2**20)]
    profile_steps: str = ""  # such as 10:15, the steps from 10 to 15: their trace goes to RUN/profile


@dataclass(frozen=True)
class OptimizerConfig:
    """The update rule and its schedule."""

    name: Literal["openai_adam", "adamw"]
    learning_rate: NonNegative
    schedule: Literal["cosine", "linear"]
    warmup_steps: Steps
    warmup_fraction: Rate  # of total_steps, where warmup_steps is 0
    total_steps: Steps  # the schedule's length; 0 is num_steps
    weight_decay: NonNegative
    clip_norm: NonNegative  # of all gradients together; 0 does not clip
    beta1: Rate
    beta2: Rate
    epsilon: Annotated[float, Range(1e-30, below=10**10)]


@dataclass(frozen=True)
class FinetuneConfig:
    """Stage two: the task, and what the paper's ablations vary."""

    task: str  # of gpt1_jax/tasks/catalog.py
    auxiliary_weight: NonNegative  # λ of L3 = L2 + λ · L1
    num_transfer_layers: (
        Annotated[int, Range(-1, below=2**20)] | None
    )  # blocks; none is all, 0 embeddings only, -1 nothing
    classifier_dropout: Rate
    scores: Literal["classes", "regression"]  # how a scored task such as STS-B is learned
    max_examples: Amount  # of training, drawn by the seed; 0 is all
    kind: Literal["classification", "entailment", "similarity", "choice"] | None  # of the task `custom`
    columns: str  # of the task `custom`: "premise=COLUMN,hypothesis=COLUMN,label=COLUMN" where names differ
    positive_label: str = ""  # the class of two whose F1 is reported; none is the alphabetically second


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1, for at most one axis, takes the devices that remain.

    Several slices, joined by the slower network of a data center, share the axis `data`, which is a multiple of them.
    """

    data: MeshAxis
    fsdp: MeshAxis
    tensor: MeshAxis
    slices: Size = 1


@dataclass(frozen=True)
class Config:
    """A run, whole."""

    seed: Annotated[int, Range(0, below=2**32)]
    init_from: str | None  # another run directory whose parameters a new run starts from
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    finetune: FinetuneConfig | None = None  # none is pre-training


# What was true of runs whose config.json does not name a key, since the key came later: dotted key → value.
BEFORE: dict[str, Any] = {
    "data.split_seed": -1,
}

_DIGITS = 1000  # of a number on the command line; what is longer is out of range by these alone


def fill_before(values: dict[str, Any]) -> dict[str, Any]:
    """The dictionaries of a run's config.json, with the keys they lack set to what was true then.

    A section that is not there, or no section at all, is left for `from_dict` to judge.
    """
    filled = dict(values)
    for key, value in BEFORE.items():
        section, name = key.rsplit(".", 1)
        if isinstance(filled.get(section), dict) and name not in filled[section]:
            filled[section] = filled[section] | {name: value}
    train = filled.get("train")
    if isinstance(train, dict) and train.get("num_steps") and train.get("num_epochs"):
        filled["train"] = train | {"num_epochs": 0}  # both were kept, what the epochs came to beside them
    return filled


def keep_before(values: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
    """A config's dictionaries for a run that goes on: where it lives by an old value, the new default does not count.

    Args:
        values: the config that the user names; a key of BEFORE with the schema's default was not asked for.
        begun: that of the run.
    """
    kept = dict(values)
    for key, old in BEFORE.items():
        section, name = key.rsplit(".", 1)
        ours, theirs = kept.get(section), begun.get(section)
        if ours and theirs and theirs[name] == old and ours.get(name) == _default(section, name):
            kept[section] = ours | {name: old}
    return kept


def _default(section: str, name: str) -> Any:
    """The value of a key that a config file does not name."""
    kind = _section(typing.get_type_hints(Config)[section])
    assert kind is not None
    return next(field.default for field in dataclasses.fields(kind) if field.name == name)


def check(config: Config) -> Config:
    """Returns the config if its fields fit each other.

    Raises:
        UserError: a sentence that names the fields that do not fit.
    """
    model, train, mesh = config.model, config.train, config.mesh
    if model.kind == "transformer" and model.d_model % model.num_heads:
        raise UserError(
            f"model.d_model={model.d_model} does not divide into model.num_heads={model.num_heads} heads; "
            "set one so that the width is a multiple of the heads."
        )
    if model.num_heads * model.context_length**2 > 2**32:
        raise UserError(
            f"model.num_heads={model.num_heads} times the square of model.context_length={model.context_length} is "
            "more than 2**32, the attention weights that dropout tells apart; shorten the context."
        )
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
    if model.kind == "lstm" and model.num_layers != 1:
        raise UserError(
            f"model.num_layers={model.num_layers} does not go with model.kind=lstm, the paper's single layer; set 1."
        )
    if config.finetune and config.init_from is None:
        raise UserError(
            "config.init_from is missing; fine-tuning takes the run directory of a pre-trained model."
        )
    if config.finetune and model.context_length < 8:
        raise UserError(
            f"model.context_length={model.context_length} leaves no room for a text beside the three special tokens; "
            "fine-tune a model with a context of 8 or more."
        )
    if config.finetune and (config.finetune.num_transfer_layers or 0) > model.num_layers:
        raise UserError(
            f"finetune.num_transfer_layers={config.finetune.num_transfer_layers} is more than the "
            f"{model.num_layers} blocks of the model; set at most {model.num_layers}."
        )
    if train.profile_steps:
        match = re.fullmatch(r"([1-9][0-9]{,17}):([0-9]{1,18})", train.profile_steps)
        if match is None or int(match[1]) > int(match[2]):
            raise UserError(
                f"train.profile_steps={train.profile_steps} is no range of steps; write FIRST:LAST such as 10:15."
            )
    axes = {"data": mesh.data, "fsdp": mesh.fsdp, "tensor": mesh.tensor}
    for name, size in axes.items():
        if size == 0:
            raise UserError(f"mesh.{name}=0 is no mesh; set 1 for an unused axis or -1 to take what remains.")
    if list(axes.values()).count(-1) > 1:
        raise UserError(
            f"mesh={axes} has more than one axis of -1; only one can take the devices that remain."
        )
    return config


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """The config as a ConfigDict whose fields without a value are placeholders, so that flags can override them."""

    def convert(section: Any) -> ml_collections.ConfigDict:
        fields = {}
        for name, hint in typing.get_type_hints(type(section)).items():
            value, kind = getattr(section, name), _unwrap(hint)[0]
            if dataclasses.is_dataclass(value):
                value = convert(value)
            elif value is None and _section(hint):
                continue
            elif value is None:
                value = config_dict.placeholder(str if typing.get_origin(kind) is Literal else kind)
            fields[name] = value
        return ml_collections.ConfigDict(fields)

    return convert(config)


def from_config_dict(values: ml_collections.ConfigDict) -> Config:
    """The checked config of a ConfigDict.

    Raises:
        UserError: an unknown or missing key, a wrong type, a value out of range, fields that do not fit.
    """
    return from_dict(values.to_dict())


def from_dict(values: dict[str, Any]) -> Config:
    """The checked config of nested dictionaries, such as a run's config.json; raises as from_config_dict."""
    return check(_build(Config, values, ""))


def to_dict(config: Config) -> dict[str, Any]:
    """The config as nested dictionaries of JSON types."""
    return dataclasses.asdict(config)


def parse_override(key: str, text: str) -> Any:
    """The value of one `--config.KEY=TEXT`, checked alone against the schema before absl sees it.

    Raises:
        UserError: no such key (the nearest is named), or a text that is not of its type or range.
    """
    section: type = Config
    *path, last = key.split(".")
    for depth, name in enumerate(path):
        hint = _hint(section, name, ".".join(path[:depth]), key)
        inner = _section(hint)
        if inner is None:
            raise UserError(f"config.{key} does not exist: {'.'.join(path[: depth + 1])} is a value.")
        section = inner
    hint = _hint(section, last, ".".join(path), key)
    if inner := _section(hint):
        known = ", ".join(f"{key}.{name}" for name in typing.get_type_hints(inner))
        raise UserError(f"config.{key} is a section, not a value; set one of {known}.")
    kind, _, _ = _unwrap(hint)
    value: Any = text
    if kind in (int, float):
        try:
            value = kind(text[:_DIGITS])
        except ValueError:
            raise _wrong_type(key, text, kind) from None
    return _checked(value, hint, key)


def _hint(section: type, name: str, prefix: str, key: str) -> Any:
    hints = typing.get_type_hints(section, include_extras=True)
    if name in hints:
        return hints[name]
    raise _unknown(name, prefix, hints, key)


def _unknown(name: str, prefix: str, known: typing.Iterable[str], key: str) -> UserError:
    nearest = difflib.get_close_matches(key, all_keys(), n=1, cutoff=0.5) or difflib.get_close_matches(
        name, known, n=1, cutoff=0
    )
    here = f" in {prefix}" if prefix else ""
    hint = f"did you mean {nearest[0]}?" if nearest else f"the keys{here} are {', '.join(known)}."
    return UserError(f"config.{key} is not a key of the config; {hint}")


def all_keys(section: type = Config, prefix: str = "") -> list[str]:
    """The dotted names of all values of the schema."""
    keys = []
    for name, hint in typing.get_type_hints(section).items():
        inner = _section(hint)
        keys += all_keys(inner, f"{prefix}{name}.") if inner else [prefix + name]
    return keys


def _build(section: type, values: dict[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(section, include_extras=True)
    for name in values:
        if name not in hints:
            raise _unknown(name, prefix.rstrip("."), hints, prefix + name)
    fields = {}
    optional = {
        field.name for field in dataclasses.fields(section) if field.default is not dataclasses.MISSING
    }
    for name, hint in hints.items():
        key, inner = prefix + name, _section(hint)
        if name in optional and (name not in values or (inner and values[name] is None)):
            continue
        if name not in values:
            raise UserError(f"config.{key} is missing; a config sets every key of gpt1_jax/config.py.")
        if inner is None:
            fields[name] = _checked(values[name], hint, key)
        elif isinstance(values[name], dict):
            fields[name] = _build(inner, values[name], key + ".")
        else:
            raise UserError(f"config.{key}={_shown(values[name])} is a section and takes keys, not a value.")
    return section(**fields)


def _checked(value: Any, hint: Any, key: str) -> Any:
    kind, limits, optional = _unwrap(hint)
    if value is None and optional:
        return None
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise UserError(
                f"config.{key}={_shown(value)} is none of {', '.join(choices)}; choose one of them."
            )
        return value
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise _wrong_type(key, value, kind)
    for limit in limits:
        if not limit.allows(typing.cast(float, value)):
            raise UserError(f"config.{key}={_shown(value)} is out of range; set a value {limit}.")
    return float(typing.cast(Any, value)) if kind is float else value


def _wrong_type(key: str, value: Any, kind: type) -> UserError:
    expected = {int: "a whole number", float: "a number", str: "a text"}[kind]
    return UserError(f"config.{key}={_shown(value)} is not {expected}; set it to {expected}.")


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no whole numbers of more than 4,300 digits
        return "(too many digits)"


def _section(hint: Any) -> type | None:
    """The dataclass of a field that is a section, None for a value."""
    kind = _unwrap(hint)[0]
    return kind if dataclasses.is_dataclass(kind) and isinstance(kind, type) else None


def _unwrap(hint: Any) -> tuple[Any, list[Range], bool]:
    """The type, the ranges and whether None is allowed, of a field's annotation."""
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    if optional:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is Annotated:
        kind, *limits = typing.get_args(hint)
        return kind, limits, optional
    return hint, [], optional
