"""The schema of a run: every key that a config file or the command line may set, with its type, range and meaning.

A default is the value of "Improving Language Understanding by Generative Pre-Training" (Radford et al., 2018) in
pre-training, so that `Config()` is the paper's section 4.1 whole, and a preset says only what it changes.
"""

# `setting` gives fields, which are no shared defaults.
# ruff: noqa: RUF009

import dataclasses
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict, config_dict

from gpt1_jax.keys import CODE, OURS, PAPER, Key, Range, setting, walk

Count = Annotated[int, Range(1, below=2**63)]
Amount = Annotated[int, Range(0, below=2**63)]
Number = Annotated[int, Range(1, below=2**24)]
# Steps are counted on the devices.
Steps = Annotated[int, Range(0, below=2**31)]
Size = Annotated[int, Range(1, below=2**20)]
Rate = Annotated[float, Range(0, below=1)]
# Its square is a float32.
NonNegative = Annotated[float, Range(0, below=10**10)]
MeshAxis = Annotated[int, Range(-1, below=2**20)]


@dataclass(frozen=True)
class ModelConfig:
    """The decoder. Letters: L layers, H heads, D d_model, F d_ff, C context_length.

    The LSTM of the paper's ablation reads d_ff as its units and d_model as the width of its embeddings; it has
    one layer, and no heads or attention dropout.
    """

    kind: Literal["transformer", "lstm"] = setting("transformer", PAPER, "the network", architecture=True)
    num_layers: Size = setting(12, PAPER, "blocks", architecture=True)
    num_heads: Size = setting(12, PAPER, "heads of attention", architecture=True)
    d_model: Size = setting(768, PAPER, "width of states and embeddings", architecture=True)
    d_ff: Size = setting(3072, PAPER, "hidden units of a block's MLP", architecture=True)
    context_length: Annotated[int, Range(2, below=2**20)] = setting(
        512, PAPER, "positions of a sequence", architecture=True
    )
    activation: Literal["gelu_tanh", "relu", "swish"] = setting(
        "gelu_tanh",
        PAPER,
        "of the MLP; the authors' program offers all three",
        architecture=True,
        before="gelu_tanh",
    )
    embedding_dropout: Rate = setting(0.1, PAPER, "on embeddings")
    embedding_dropout_form: Literal["vectors", "matrix"] = setting(
        "vectors",
        OURS,
        "drops entries of each sequence's summed vectors or, as the authors' program does, of the tables of tokens and "
        "positions, once an update, which the output then reads too",
        before="vectors",
    )
    attention_dropout: Rate = setting(0.1, PAPER, "on the weights of attention")
    residual_dropout: Rate = setting(0.1, PAPER, "on what attention and MLP add")
    dtype: Literal["float32", "bfloat16"] = setting(
        "bfloat16", OURS, "of activations; parameters and moments are float32 in any case"
    )
    attention: Literal["auto", "plain", "chunked", "flash", "splash", "cudnn"] = setting(
        "auto", OURS, "how attention is computed; auto is the best for the devices and the length"
    )
    unroll: Annotated[int, Range(0, below=2**20)] = setting(
        0, OURS, "layers an iteration of the loop holds; 0 is all, or one where remat needs the loop"
    )
    remat: Literal["none", "full", "dots"] = setting(
        "none", OURS, "what the backward pass computes again; dots keeps products of matrices"
    )


@dataclass(frozen=True)
class DataConfig:
    """Where the text and the tokenizer come from."""

    # The paper's BooksCorpus is no longer distributed.
    source: str = setting(
        "tfds:pg19", OURS, "demo, text:GLOB or tfds:NAME[#FEATURE]; of a task: tfds, files:PATH or demo"
    )
    tokenizer: str = setting("sentencepiece", OURS, "sentencepiece, sentencepiece:FILE.model or openai:DIR")
    vocab_size: Number = setting(
        40_478, PAPER, "pieces of a tokenizer trained here: 40,000 merges and the characters", fixed=True
    )
    cache_dir: str = setting("~/.cache/gpt1_jax", OURS, "for tokenized text, which runs share")
    tfds_dir: str | None = setting(None, OURS, "where TFDS prepares its sets; by default in its own place")
    split_seed: Annotated[int, Range(-1, below=2**32)] = setting(
        0,
        OURS,
        "draws what is held out where there is no validation part, apart from `seed`; -1 is every 20th document, and "
        "every 10th or 20th row",
        fixed=True,
        before=-1,
    )


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, and how often to look and to save."""

    num_steps: Steps = setting(0, OURS, "updates; 0 where num_epochs says how long")
    num_epochs: NonNegative = setting(100.0, PAPER, "passes over the data; 0 where num_steps says how long")
    batch_size: Number = setting(64, PAPER, "sequences an update, over all devices", fixed=True)
    accumulation: Number = setting(1, OURS, "micro-batches that an update is split into")
    log_every: Count = setting(100, OURS, "steps from one line of the log to the next")
    eval_every: Amount = setting(10_000, OURS, "steps from one evaluation to the next; 0 is an epoch")
    eval_batches: Amount = setting(
        200, OURS, "batches of an evaluation; 0 is the whole validation part, as always in fine-tuning"
    )
    checkpoint_every: Amount = setting(
        5_000, OURS, "steps from one checkpoint to the next, beside the best evaluation's; 0 is an epoch"
    )
    keep_checkpoints: Annotated[int, Range(2, below=2**20)] = setting(
        3, OURS, "how many of the newest stay; two at least, so that a damaged one can be passed over"
    )
    profile_steps: str = setting(
        "", OURS, "such as 10:15: a trace of the steps from 10 to 15 goes to RUN/profile", before=""
    )

    @property
    def rows(self) -> int:
        """Sequences of a micro-batch, over all devices."""
        return self.batch_size // self.accumulation


@dataclass(frozen=True)
class OptimizerConfig:
    """The update rule and its schedule."""

    name: Literal["openai_adam", "adamw"] = setting(
        "openai_adam", CODE, "the update rule; openai_adam is the authors', with decoupled decay", fixed=True
    )
    learning_rate: NonNegative = setting(2.5e-4, PAPER, "at its highest, after the warm-up")
    schedule: Literal["cosine", "linear", "warmup_cosine", "warmup_constant"] = setting(
        "cosine",
        PAPER,
        "the rate after the warm-up: down half a cosine or a line to 0; the authors' warmup_cosine takes half a cosine "
        "of the whole run, and their warmup_constant stays",
    )
    warmup_steps: Steps = setting(2_000, PAPER, "in which the rate rises from 0")
    warmup_fraction: Rate = setting(0.0, OURS, "of total_steps, where warmup_steps is 0")
    total_steps: Steps = setting(0, OURS, "the schedule's length; 0 is num_steps")
    weight_decay: NonNegative = setting(0.01, PAPER, "on the parameters that `decayed` names")
    decayed: Literal["matrices", "all"] = setting(
        "matrices", PAPER, "all parameters but biases and gains, or all", before="matrices"
    )
    clip_norm: NonNegative = setting(1.0, CODE, "the largest norm of all gradients together; 0 does not clip")
    beta1: Rate = setting(0.9, CODE, "decay of Adam's first moment")
    beta2: Rate = setting(0.999, CODE, "decay of Adam's second moment")
    epsilon: Annotated[float, Range(1e-30, below=10**10)] = setting(
        1e-8, CODE, "added to the second moment's root"
    )


@dataclass(frozen=True)
class FinetuneConfig:
    """Stage two: the task, and what the paper's ablations vary."""

    task: str = setting(MISSING, OURS, "a name of gpt1_jax/tasks/catalog.py", fixed=True)
    auxiliary_weight: NonNegative = setting(0.5, PAPER, "λ of L3 = L2 + λ · L1")
    num_transfer_layers: Annotated[int, Range(-1, below=2**20)] | None = setting(
        None, PAPER, "pre-trained blocks to take; by default all, 0 the embeddings, -1 nothing", fixed=True
    )
    classifier_dropout: Rate = setting(0.1, PAPER, "on the state that the head reads")
    scores: Literal["classes", "regression"] = setting(
        "classes", CODE, "how a scored task such as STS-B is learned", fixed=True
    )
    softmax: Literal["tokens", "authors"] = setting(
        "tokens",
        OURS,
        "what the auxiliary language model predicts among: pieces and specials, or, as in the authors' one table, the "
        "rows of positions too",
        fixed=True,
        before="tokens",
    )
    max_examples: Amount = setting(0, OURS, "of training, drawn by `seed`; 0 is all", fixed=True)
    kind: Literal["classification", "entailment", "similarity", "choice"] | None = setting(
        None, OURS, "of the task custom", fixed=True
    )
    columns: str = setting("", OURS, "of custom: premise=COLUMN,hypothesis=COLUMN,label=COLUMN", fixed=True)
    positive_label: str = setting(
        "", OURS, "of two, the one whose F1 counts; by default the second by alphabet", fixed=True, before=""
    )


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1, for at most one axis, takes the devices that remain.

    Several slices, joined by the slower network of a data center, share the axis `data`, which is a multiple of them.
    """

    data: MeshAxis = setting(-1, OURS, "devices that share a batch; -1 takes those that remain")
    fsdp: MeshAxis = setting(1, OURS, "devices that share a batch, and the parameters too")
    tensor: MeshAxis = setting(1, OURS, "devices that share each product of matrices")
    slices: Size = setting(1, OURS, "slices that share the axis data over a slower network", before=1)


@dataclass(frozen=True)
class Config:
    """A run, whole."""

    seed: Annotated[int, Range(0, below=2**32)] = setting(0, OURS, "of everything that is drawn", fixed=True)
    init_from: str | None = setting(None, OURS, "a run whose parameters a new run starts from")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    # None is pre-training.
    finetune: FinetuneConfig | None = None


def schema() -> dict[str, Key]:
    """Every value of the schema, by its dotted name."""
    return {key.name: key for key in walk(Config)}


def to_config_dict(config: Config) -> ConfigDict:
    """What a config file gives: a ConfigDict whose keys without a value are placeholders, so that flags set them."""
    known = schema()

    def convert(section: Any, prefix: str) -> ConfigDict:
        found = {}
        for field in dataclasses.fields(section):
            name, value = field.name, getattr(section, field.name)
            if dataclasses.is_dataclass(value):
                found[name] = convert(value, f"{prefix}{name}.")
            elif value is not None:
                found[name] = value
            elif (key := known.get(prefix + name)) is not None:
                found[name] = config_dict.placeholder(key.kind)
        return ConfigDict(found)

    return convert(config, "")
