"""The common form of all formats: the language model's tensors as the authors published them, in their order.

Letters: L layers, D width, F hidden, C context length, V the tokenizer's pieces, N outputs of a head.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpt1_jax.config import ModelConfig
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.task import Task

# What the formats record of a model; everything else about its architecture is as in GPT-1.
SIZES = (
    "model.num_layers",
    "model.num_heads",
    "model.d_model",
    "model.d_ff",
    "model.context_length",
)
POSITIONS, TOKENS = "positions_embed.weight", "tokens_embed.weight"


@dataclass(frozen=True, eq=False)
class TaskHead:
    """What fine-tuning added to the language model.

    Attributes:
        task: the task, whose labels the outputs stand for.
        specials: float32 [3, D], the embeddings of start, delimiter and extract.
        kernel, bias: float32 [D, N] and [N].
        dropout_rate: the rate of dropout on the state that the head reads.
    """

    task: Task
    specials: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    dropout_rate: float


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A language model, whatever it was read from.

    Attributes:
        config: the sizes and dropout rates.
        weights: float32 tensors with the names, shapes and order of `weight_shapes`.
        tokenizer: says what the rows of the token table mean; a NoTokenizer if the files came without one.
        head: the head of a fine-tuned run.
        added: the names of added tokens, whose rows of the token table come after those of the tokenizer's pieces.
    """

    config: ModelConfig
    weights: Mapping[str, np.ndarray]
    tokenizer: Tokenizer
    head: TaskHead | None = None
    added: Sequence[str] = ()


def weight_shapes(config: ModelConfig, rows: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the name and shape of each tensor, in the published order; kernels are [in, out], with heads side by side.

    The names are those of transformers' OpenAIGPTModel. They come one at a time, so that a search for them in a file
    ends at the first that is missing, however many layers the file claims to have.
    """
    width, hidden = config.d_model, config.d_ff
    yield POSITIONS, (config.context_length, width)
    yield TOKENS, (rows, width)
    for layer in range(config.num_layers):
        yield f"h.{layer}.attn.c_attn.weight", (width, 3 * width)
        yield f"h.{layer}.attn.c_attn.bias", (3 * width,)
        yield f"h.{layer}.attn.c_proj.weight", (width, width)
        yield f"h.{layer}.attn.c_proj.bias", (width,)
        yield f"h.{layer}.ln_1.weight", (width,)
        yield f"h.{layer}.ln_1.bias", (width,)
        yield f"h.{layer}.mlp.c_fc.weight", (width, hidden)
        yield f"h.{layer}.mlp.c_fc.bias", (hidden,)
        yield f"h.{layer}.mlp.c_proj.weight", (hidden, width)
        yield f"h.{layer}.mlp.c_proj.bias", (width,)
        yield f"h.{layer}.ln_2.weight", (width,)
        yield f"h.{layer}.ln_2.bias", (width,)


def imported(config: ModelConfig) -> ModelConfig:
    """Returns the config of another program's model as a run has it: it computes in float32, like its weights.

    Raises:
        UserError: the width is not a multiple of the number of heads.
    """
    if config.d_model % config.num_heads:
        raise UserError(
            f"The width {config.d_model} does not divide into {config.num_heads} heads; set the number of heads that "
            "the model was trained with."
        )
    return dataclasses.replace(config, dtype="float32")


def check_finite(model: LanguageModel) -> None:
    """Checks that all tensors are finite.

    Raises:
        UserError: one holds infinity or NaN.
    """
    arrays, head = dict(model.weights), model.head
    if head is not None:
        arrays |= {
            "the head's kernel": head.kernel,
            "the head's bias": head.bias,
            "a special token": head.specials,
        }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"{name} holds numbers that are not finite; convert weights that were not damaged or diverged."
            )
