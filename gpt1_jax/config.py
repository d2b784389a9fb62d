"""The schema of a run: every key that a config file or the command line may set, with its type, range and meaning.

The defaults are those of pre-training in "Improving Language Understanding by Generative Pre-Training" (Radford et
al., 2018). `Config()` is thus all of the paper's section 4.1, and a preset says only what it changes.
"""

# `setting` returns fields, which are not shared defaults.
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
    """The network. Letters: L layers, H heads, D d_model, F d_ff, C context_length.

    The defaults are GPT-1's. Six keys make a GPT-2 (norm) or a BERT (the others) of it, without its kind.

    For the LSTM of the paper's ablation, d_ff is the number of units and d_model the width of the embeddings. It has
    one layer, and neither heads nor attention dropout.
    """

    kind: Literal["transformer", "lstm"] = setting("transformer", PAPER, "the network", architecture=True)
    num_layers: Size = setting(12, PAPER, "blocks", architecture=True)
    num_heads: Size = setting(12, PAPER, "heads of attention", architecture=True)
    d_model: Size = setting(768, PAPER, "width of states and embeddings", architecture=True)
    d_ff: Size = setting(3072, PAPER, "hidden units of a block's MLP", architecture=True)
    context_length: Annotated[int, Range(2, below=2**20)] = setting(
        512, PAPER, "positions of a sequence", architecture=True
    )
    norm: Literal["post", "pre"] = setting(
        "post",
        PAPER,
        "where a block normalizes: after it has added, or before it computes (GPT-2, with one more norm at the end)",
        architecture=True,
        before="post",
    )
    norm_epsilon: Annotated[float, Range(1e-30, below=1)] = setting(
        1e-5, CODE, "added to the variance in every norm; BERT has 1e-12", architecture=True, before=1e-5
    )
    activation: Literal["gelu_tanh", "gelu", "relu", "swish"] = setting(
        "gelu_tanh",
        PAPER,
        "the MLP's activation; the authors' program offers all but gelu, the exact form of published BERTs",
        architecture=True,
        before="gelu_tanh",
    )
    causal: bool = setting(
        True,
        PAPER,
        "whether a position sees only what is before it; if not (BERT), the model fills masks and cannot continue text",
        architecture=True,
        before=True,
    )
    token_types: Annotated[int, Range(0, below=2**10)] = setting(
        0, PAPER, "rows of a table that tells texts apart; BERT has 2", architecture=True, before=0
    )
    embedding_norm: bool = setting(
        False, PAPER, "whether the summed embeddings are normalized (BERT)", architecture=True, before=False
    )
    embedding_dropout: Rate = setting(0.1, PAPER, "dropout rate of embeddings")
    embedding_dropout_form: Literal["vectors", "matrix"] = setting(
        "vectors",
        OURS,
        "drops entries of each sequence's summed vectors or, as in the authors' program, of the tables of tokens and "
        "positions, once per update; the output then reads the dropped tables too",
        before="vectors",
    )
    attention_dropout: Rate = setting(0.1, PAPER, "dropout rate of attention weights")
    residual_dropout: Rate = setting(0.1, PAPER, "dropout rate of what attention and MLP add")
    dtype: Literal["float32", "bfloat16"] = setting(
        "bfloat16", OURS, "type of activations; parameters and moments are always float32"
    )
    attention: Literal["auto", "plain", "chunked", "flash", "splash", "cudnn"] = setting(
        "auto", OURS, "how attention is computed; auto chooses the best form for the devices and the length"
    )
    unroll: Annotated[int, Range(0, below=2**20)] = setting(
        0, OURS, "layers in one iteration of the loop; 0 means all, or one if remat needs the loop"
    )
    remat: Literal["none", "full", "dots"] = setting(
        "none", OURS, "what the backward pass recomputes; dots keeps matrix products"
    )


@dataclass(frozen=True)
class DataConfig:
    """Where the text and the tokenizer come from."""

    # The paper's BooksCorpus is no longer distributed.
    source: str = setting(
        "tfds:pg19", OURS, "demo, text:GLOB or tfds:NAME[#FEATURE]; for a task tfds, files:PATH or demo"
    )
    tokenizer: str = setting(
        "sentencepiece",
        OURS,
        "sentencepiece, wordpiece or byte_bpe, trained on the source; sentencepiece:FILE.model, huggingface:DIR or "
        "openai:DIR",
    )
    vocab_size: Number = setting(
        40_478, PAPER, "pieces of a trained tokenizer: 40,000 merges and the characters", fixed=True
    )
    cache_dir: str = setting("~/.cache/gpt1_jax", OURS, "directory of tokenized text, shared by runs")
    tfds_dir: str | None = setting(None, OURS, "where TFDS prepares its sets; by default its own directory")
    split_seed: Annotated[int, Range(-1, below=2**32)] = setting(
        0,
        OURS,
        "chooses what is held out if there is no validation part, whatever `seed` is; -1 takes every 20th document, "
        "and every 10th or 20th row",
        fixed=True,
        before=-1,
    )
    whole_words: bool = setting(
        False,
        OURS,
        "whether a model that fills masks (model.causal=False) learns from whole words hidden instead of single pieces",
        fixed=True,
        before=False,
    )
    mask_documents: bool = setting(
        False,
        OURS,
        "whether no position attends to another document of its window, so that each document is learned as if it "
        "stood alone; for texts of many short ones, such as lm1b, unlike the paper's books",
        fixed=True,
        before=False,
    )
    restart_positions: bool = setting(
        False, OURS, "whether positions begin anew with each document kept apart", fixed=True, before=False
    )
    without: str | None = setting(
        None,
        OURS,
        "a file of training documents, a number or a hash a line, whose tokens get weight 0; all else stays bit-equal",
        before=None,
    )


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, with how much at once, and how often to evaluate and save."""

    num_steps: Steps = setting(0, OURS, "updates; 0 if num_epochs decides")
    num_epochs: NonNegative = setting(100.0, PAPER, "passes over the data; 0 if num_steps decides")
    batch_size: Number = setting(64, PAPER, "sequences per update, over all devices", fixed=True)
    accumulation: Number = setting(1, OURS, "micro-batches that an update is split into")
    log_every: Count = setting(100, OURS, "steps from one line of the log to the next")
    eval_every: Annotated[int, Range(-1, below=2**63)] = setting(
        10_000,
        OURS,
        "steps from one evaluation to the next; 0 means an epoch; -1 means an epoch too, and steps 1,000 · 2ᵏ of the "
        "first, as in the authors' program",
    )
    eval_batches: Amount = setting(
        200, OURS, "batches in an evaluation; 0 means the whole validation part, as always in fine-tuning"
    )
    checkpoint_every: Amount = setting(
        5_000, OURS, "steps from one checkpoint to the next, besides the best evaluation's; 0 means an epoch"
    )
    keep_checkpoints: Annotated[int, Range(2, below=2**20)] = setting(
        3, OURS, "how many of the newest checkpoints stay; at least two, so that a damaged one can be skipped"
    )
    keep_log_spaced: bool = setting(
        False, OURS, "saves at steps 1, 2, 4, 8, … too, and removes none of these checkpoints", before=False
    )
    tracker: Literal["none", "wandb", "mlflow"] = setting(
        "none",
        OURS,
        "where the log is also sent: Weights & Biases or MLflow, each by its own environment variables",
        before="none",
    )
    profile_steps: str = setting("", OURS, "steps to trace into RUN/profile, such as 10:15", before="")

    @property
    def rows(self) -> int:
        """The number of sequences in a micro-batch, over all devices."""
        return self.batch_size // self.accumulation


@dataclass(frozen=True)
class OptimizerConfig:
    """The update rule and its schedule."""

    name: Literal["openai_adam", "adamw"] = setting(
        "openai_adam", CODE, "the update rule; openai_adam is the authors', with decoupled decay", fixed=True
    )
    learning_rate: NonNegative = setting(2.5e-4, PAPER, "the highest learning rate, after the warm-up")
    schedule: Literal["cosine", "linear", "warmup_cosine", "warmup_constant"] = setting(
        "cosine",
        PAPER,
        "how the rate changes after the warm-up: it falls to 0 along half a cosine or a line; the authors' "
        "warmup_cosine follows half a cosine of the whole run, and their warmup_constant keeps the rate",
    )
    warmup_steps: Steps = setting(2_000, PAPER, "steps in which the rate rises from 0")
    warmup_fraction: Rate = setting(
        0.0, OURS, "the warm-up as a fraction of total_steps, if warmup_steps is 0"
    )
    total_steps: Steps = setting(0, OURS, "the schedule's length; 0 means num_steps")
    weight_decay: NonNegative = setting(0.01, PAPER, "weight decay of the parameters that `decayed` names")
    decayed: Literal["matrices", "all"] = setting(
        "matrices", PAPER, "which parameters decay: all but biases and gains, or all", before="matrices"
    )
    clip_norm: NonNegative = setting(
        1.0, CODE, "the largest norm of all gradients together; 0 means no clipping"
    )
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
        None, PAPER, "pre-trained blocks to take: all by default, 0 only embeddings, -1 nothing", fixed=True
    )
    classifier_dropout: Rate = setting(0.1, PAPER, "dropout rate of the state that the head reads")
    scores: Literal["classes", "regression"] = setting(
        "classes", CODE, "how a scored task such as STS-B is learned", fixed=True
    )
    select: Literal["best", "last"] = setting(
        "best",
        CODE,
        "which parameters predict, and are what opens as the run: those of the best evaluation, or the last",
        before="last",
    )
    batching: Literal["shuffled", "bucketed", "pools"] = setting(
        "bucketed",
        OURS,
        "which examples share a batch: any, drawn anew each epoch as in the authors' program; some of similar length, "
        "also drawn anew, with a share of each class; or, as in earlier runs, neighbors in length",
        fixed=True,
        before="pools",
    )
    remainder: Literal["spread", "dropped"] = setting(
        "spread",
        OURS,
        "examples of an epoch that fill no batch: spread, so that batches differ by one at most and all examples weigh "
        "the same, or dropped, as in the authors' program",
        fixed=True,
        before="spread",
    )
    widths: Annotated[int, Range(0, below=2**10)] = setting(
        0,
        OURS,
        "lengths that batches are padded to, at most; the step is compiled for each; 0 chooses as many as pay, up to 4",
        fixed=True,
        before=4,
    )
    softmax: Literal["tokens", "authors"] = setting(
        "tokens",
        OURS,
        "what the auxiliary language model chooses from: pieces and specials or, as in the authors' single table, also "
        "the rows of positions",
        fixed=True,
        before="tokens",
    )
    max_examples: Amount = setting(
        0, OURS, "training examples to use, drawn by `seed`; 0 means all", fixed=True
    )
    kind: (
        Literal["classification", "entailment", "similarity", "choice", "tagging", "span", "completion"]
        | None
    ) = setting(None, OURS, "the kind of the task custom", fixed=True)
    columns: str = setting(
        "", OURS, "columns of custom: premise=COLUMN,hypothesis=COLUMN,label=COLUMN", fixed=True
    )
    positive_label: str = setting(
        "",
        OURS,
        "of two classes, the one whose F1 counts; by default the second in the alphabet",
        fixed=True,
        before="",
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
    """All settings of a run."""

    seed: Annotated[int, Range(0, below=2**32)] = setting(
        0, OURS, "the seed of everything random", fixed=True
    )
    init_from: str | None = setting(None, OURS, "a run whose parameters a new run starts from")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    # None means pre-training.
    finetune: FinetuneConfig | None = None


def schema() -> dict[str, Key]:
    """Returns every key of the schema, by its dotted name."""
    return {key.name: key for key in walk(Config)}


def to_config_dict(config: Config) -> ConfigDict:
    """Returns the ConfigDict of a config file; keys without a value get placeholders, so that flags can set them."""
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
