"""The layout of openai-community/openai-gpt, which transformers reads: config.json, weights, vocab.json, merges.txt.

OpenAIGPTModel always has four times as many hidden units as its width, whatever its config says. A model with fewer is
padded with units that are zero, and records its own number as `n_inner`, so that reading can drop the padding.
"""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpt1_jax.config import ModelConfig
from gpt1_jax.data.tokenizers.gpt1 import HUGGING_FACE_FILES, OpenAITokenizer
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.interop.fold import narrow, widen
from gpt1_jax.interop.json_files import is_size, read_json, shown
from gpt1_jax.interop.published import TOKENS, LanguageModel, imported, weight_shapes
from gpt1_jax.interop.task_heads import add_head
from gpt1_jax.interop.tensors import (
    DTYPES,
    SAFETENSORS,
    Tensor,
    open_safetensors,
    open_tensors,
    write_safetensors,
)
from gpt1_jax.interop.tokenizer_json import why_not, write_no_tokenizer, write_tokenizer_json
from gpt1_jax.interop.tokenizers import SENTENCEPIECE, find_added, find_tokenizer, write_tokenizer
from gpt1_jax.model.layers import INIT_STDDEV

_PREFIX = "transformer."
# Parts that heads, torch.compile and PyTorch's distributed wrappers add to a model's own names.
_AROUND = {"transformer", "_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# The token table once more.
_OUTPUT = "lm_head.weight"
_HIDDEN_FACTOR = 4
# A classifier's last norm may be replaced to express a bias; the language model's own norm then goes into this file.
LAST_NORM = "language_model_norm.safetensors"
# transformers' names of the authors' activations.
_ACTIVATIONS: dict[str, Literal["gelu_tanh", "relu", "swish"]] = {
    "gelu": "gelu_tanh",
    "relu": "relu",
    "silu": "swish",
    "swish": "swish",
}
_SIZES = {
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_embd": "d_model",
    "n_positions": "context_length",
}
_DROPOUTS = {
    "embd_pdrop": "embedding_dropout",
    "attn_pdrop": "attention_dropout",
    "resid_pdrop": "residual_dropout",
}
# Masks and the like, which older files contain.
_BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)|position_ids")
_HEADS = ("score.", "multiple_choice_head.")


# ── Read ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_huggingface(
    directory: Path, tell: Callable[[str], None], tokenizer: Tokenizer | None = None
) -> LanguageModel:
    """Reads the layout.

    Args:
        directory: holds the files.
        tell: receives lines about what is left out or changed in form.
        tokenizer: replaces the one in the directory.

    Raises:
        UserError: a file is missing or damaged, the files do not fit each other, or the model is of another kind.
    """
    config, rows, hidden = _read_config(directory / "config.json")
    tensors = _find_tensors(directory, config, rows, tell)
    if dtypes := {tensor.dtype for tensor in tensors.values()} - {"float32"}:
        tell(f"The weights are {' and '.join(sorted(dtypes))}; float32 holds the same numbers.")
    weights = {name: narrow(name, tensor.read(), hidden) for name, tensor in tensors.items()}
    if _OUTPUT in weights and not np.array_equal(weights.pop(_OUTPUT), weights[TOKENS]):
        raise UserError(
            f"{directory} has an {_OUTPUT} that differs from {TOKENS}, but GPT-1 ties them; convert a model that does."
        )
    config, added = dataclasses.replace(config, d_ff=hidden), []
    if tokenizer is None:
        tokenizer = find_tokenizer(directory, rows)
        added = find_added(directory, tokenizer.vocab_size)
    return LanguageModel(config, weights, tokenizer, added=added)


def _read_config(path: Path) -> tuple[ModelConfig, int, int]:
    """Returns the config of the tensors, the rows of the token table, and the number of true hidden units."""
    values = read_json(path)
    if not isinstance(values, dict) or values.get("model_type") != "openai-gpt":
        raise UserError(f'{path} does not say "model_type": "openai-gpt"; name a directory of such a model.')

    def size(key: str) -> int:
        value = values.get(key)
        if not is_size(value):
            raise UserError(
                f"{path} has {key}={shown(value)}, expected a whole number from 1 to 2**31 - 1; correct it."
            )
        return value

    def rate(key: str) -> float:
        value = values.get(key, 0.1)
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise UserError(
                f"{path} has {key}={shown(value)}, expected a number from 0 to below 1; correct it."
            )
        return float(value)

    afn = values.get("afn", "gelu")
    if not isinstance(afn, str) or afn not in _ACTIVATIONS:
        raise UserError(f"{path} has afn={shown(afn)}, expected {' or '.join(_ACTIVATIONS)}; correct it.")
    known = {
        "layer_norm_epsilon": ModelConfig.norm_epsilon,
        "n_ctx": size("n_positions"),
        "tie_word_embeddings": True,
    }
    for key, expected in known.items():
        if values.get(key, expected) != expected:
            raise UserError(
                f"{path} has {key}={shown(values[key])}, but a model here can only have {expected!r}; convert "
                "a model that has it."
            )
    wide = _HIDDEN_FACTOR * size("n_embd")
    hidden = wide if values.get("n_inner") is None else size("n_inner")
    if hidden > wide:
        raise UserError(
            f"{path} has n_inner={hidden}, expected at most {wide}, four times n_embd; correct it."
        )
    sizes: dict[str, Any] = {ours: size(key) for key, ours in _SIZES.items()}
    rates: dict[str, Any] = {ours: rate(key) for key, ours in _DROPOUTS.items()}
    return (
        imported(ModelConfig(d_ff=wide, activation=_ACTIVATIONS[afn], **sizes, **rates)),
        size("vocab_size"),
        hidden,
    )


def _find_tensors(
    directory: Path, config: ModelConfig, rows: int, tell: Callable[[str], None]
) -> dict[str, Tensor]:
    """Returns the model's tensors by their published names, and the output's if the files have one."""
    found: dict[str, Tensor] = {}
    for name, tensor in open_tensors(directory).items():
        short = ".".join(part for part in name.split(".") if part not in _AROUND)
        if short in found:
            raise UserError(f"{directory} has {shown(short)} both with and without a prefix; remove one.")
        if short.startswith(_HEADS):
            tell(f"{shown(name)} is left out: only the language model is converted.")
        elif not _BUFFERS.fullmatch(short):
            found[short] = tensor
    if (path := directory / LAST_NORM).is_file():
        found |= {
            name: tensor for name, tensor in open_safetensors(path).items() if name in _last_norm(config)
        }
    # transformers saves OpenAIGPTDoubleHeadsModel this way.
    if TOKENS not in found and _OUTPUT in found:
        found[TOKENS] = found[_OUTPUT]

    tensors = {}
    for name, shape in weight_shapes(config, rows):
        if name not in found:
            raise UserError(
                f"{directory} has no {name}, expected one of shape {list(shape)}; bring all weights."
            )
        tensors[name] = _checked(directory, name, found.pop(name), shape)
    if _OUTPUT in found:
        tensors[_OUTPUT] = _checked(directory, _OUTPUT, found.pop(_OUTPUT), tensors[TOKENS].shape)
    for name, tensor in found.items():
        raise UserError(
            f"{directory} has {shown(name)} of shape {list(tensor.shape)}, which does not belong to the model that its "
            "config.json describes; convert a model of that kind and size."
        )
    return tensors


def _checked(directory: Path, name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tensor.shape != shape:
        raise UserError(
            f"{directory} has {name} of shape {list(tensor.shape)}, expected {list(shape)} by its config.json; bring "
            "files that belong together."
        )
    if tensor.dtype not in DTYPES.values():
        raise UserError(
            f"{directory} has {name} in {tensor.dtype}, expected one of {', '.join(DTYPES.values())}; save it as one."
        )
    return tensor


# ── Write ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_huggingface(model: LanguageModel, directory: Path, tell: Callable[[str], None]) -> None:
    """Writes a language model, or a model with two heads if it was fine-tuned, into an existing directory.

    Args:
        model: if it has a head, `task_heads.why_not` does not object to its task.
        directory: where to write.
        tell: receives lines about how to use the model.

    Raises:
        UserError: the model has more hidden units than the layout can hold.
    """
    config, wide = model.config, _HIDDEN_FACTOR * model.config.d_model
    if config.d_ff > wide:
        raise UserError(
            f"model.d_ff={config.d_ff} is more than {wide}, the hidden units of every OpenAIGPT of width "
            f"{config.d_model}; convert a model with at most that many."
        )
    weights = {_PREFIX + name: widen(name, array, wide) for name, array in model.weights.items()}
    values: dict[str, Any] = {
        "architectures": ["OpenAIGPTLMHeadModel"],
        "model_type": "openai-gpt",
        "vocab_size": len(model.weights[TOKENS]),
        "afn": next(afn for afn, ours in _ACTIVATIONS.items() if ours == config.activation),
        "layer_norm_epsilon": ModelConfig.norm_epsilon,
        "initializer_range": INIT_STDDEV,
        "n_ctx": config.context_length,
        **{key: getattr(config, ours) for key, ours in (_SIZES | _DROPOUTS).items()},
    }
    if config.d_ff < wide:
        values["n_inner"] = config.d_ff
    if model.head is not None:
        values |= add_head(weights, model.head, _PREFIX, _last_norm(config), tell)
        norm = {name: model.weights[name] for name in _last_norm(config)}
        if any((weights[_PREFIX + name] != array).any() for name, array in norm.items()):
            write_safetensors(norm, directory / LAST_NORM)
            tell(
                f"The last norm is replaced by one that carries the head's bias, so use {SAFETENSORS} only as a "
                f"classifier; converted back, it is the run's language model, whose norm is in {LAST_NORM}."
            )
    (directory / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    write_safetensors(weights, directory / SAFETENSORS)
    write_tokenizer(model.tokenizer, directory, HUGGING_FACE_FILES)
    _write_for_transformers(model, directory, tell)


def _last_norm(config: ModelConfig) -> tuple[str, str]:
    """Returns the names of the gain and the bias of the model's last norm."""
    return f"h.{config.num_layers - 1}.ln_2.weight", f"h.{config.num_layers - 1}.ln_2.bias"


def _write_for_transformers(model: LanguageModel, directory: Path, tell: Callable[[str], None]) -> None:
    """Writes the tokenizer as AutoTokenizer reads it, or a file that makes AutoTokenizer fail.

    For the published BPE, AutoTokenizer uses the two files; it then gives transformers' ids, not the authors'.
    """
    tokenizer = model.tokenizer
    if isinstance(tokenizer, OpenAITokenizer):
        tell(
            "transformers' tokenizer of GPT-1 leaves out line breaks and accents, and splits some words differently "
            "from the authors; for the ids that are used here, encode with gpt1_jax.tokenize."
        )
        return
    if isinstance(tokenizer, SentencePieceTokenizer):
        reason = why_not(tokenizer.model)
        if reason is None:
            write_tokenizer_json(
                tokenizer, directory, model.config.context_length, with_specials=model.head is not None
            )
            if model.head is not None:
                tell("AutoTokenizer puts <s>, $ and <e> around a text, or two, by itself.")
            return
        tell(
            f"The SentencePiece model cannot be written as tokenizer.json, because {reason}; AutoTokenizer refuses the "
            f"directory, but the package sentencepiece reads {SENTENCEPIECE} there."
        )
    write_no_tokenizer(directory)
