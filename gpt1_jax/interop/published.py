"""The form that all formats meet in: the language model's tensors as the authors published them, in that order.

Letters: L layers, D width, F hidden, C context length, V the tokenizer's pieces.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpt1_jax.config import ModelConfig
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.task import Task

# What the formats say of a model; in all else that decides its architecture it is GPT-1.
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
    """What fine-tuning put on the language model.

    Fields:
        task: whose labels the outputs are.
        specials: float32 [3, D], the embeddings of start, delimiter and extract.
        kernel, bias: float32 [D, N] and [N].
    """

    task: Task
    specials: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A language model, whatever it was read from.

    Fields:
        config: its sizes and dropout rates.
        weights: float32, by the names and in the shapes and order of `weight_shapes`.
        tokenizer: what its rows of the token table mean; a NoTokenizer where its files came without one.
        head: of a run that was fine-tuned.
        added: the names of tokens whose rows of the token table stand behind the tokenizer's pieces.
    """

    config: ModelConfig
    weights: Mapping[str, np.ndarray]
    tokenizer: Tokenizer
    head: TaskHead | None = None
    added: Sequence[str] = ()


def weight_shapes(config: ModelConfig, rows: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name and shape of each tensor, in the published order; kernels are [in, out], their heads side by side.

    The names are those of transformers' OpenAIGPTModel. One after the other, so that who looks for them in a file
    ends at the first that is not there, however many layers the file claims.
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


def make_config(
    *,
    num_layers: int,
    num_heads: int,
    d_model: int,
    d_ff: int,
    context_length: int,
    embedding_dropout: float = 0.1,
    attention_dropout: float = 0.1,
    residual_dropout: float = 0.1,
) -> ModelConfig:
    """The config of a model that another program made; it computes in float32, as its weights are.

    Raises:
        UserError: the width does not divide into the heads.
    """
    if d_model % num_heads:
        raise UserError(
            f"The width {d_model} does not divide into {num_heads} heads; set the number of heads that the model was "
            "trained with."
        )
    return ModelConfig(
        num_layers=num_layers,
        num_heads=num_heads,
        d_model=d_model,
        d_ff=d_ff,
        context_length=context_length,
        embedding_dropout=embedding_dropout,
        attention_dropout=attention_dropout,
        residual_dropout=residual_dropout,
        dtype="float32",
    )


def check_finite(model: LanguageModel) -> None:
    """Refuses, by UserError, a model with a tensor that has infinite numbers, or what are none."""
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
