"""The layouts that transformers reads, by the tables of `families`: config.json, weights and the tokenizer's files.

OpenAIGPTModel always has four times as many hidden units as its width, whatever its config says. A model with fewer is
padded with units that are zero, and records its own number as `n_inner`, so that reading can drop the padding.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from gpt1_jax.config import ModelConfig
from gpt1_jax.data.tokenizers.gpt1 import HUGGING_FACE_FILES, OPENAI_FILES
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.interop.config_json import config_values, read_config
from gpt1_jax.interop.families import GPT1, GPT2
from gpt1_jax.interop.family import HIDDEN_FACTOR, Family, axis_sizes
from gpt1_jax.interop.finding import UNFOLDED, find_tensors
from gpt1_jax.interop.fold import narrow, widen
from gpt1_jax.interop.found_heads import read_head
from gpt1_jax.interop.model_card import write_card
from gpt1_jax.interop.published import LanguageModel
from gpt1_jax.interop.task_heads import add_head
from gpt1_jax.interop.tensors import SAFETENSORS, write_safetensors
from gpt1_jax.interop.tokenizers import find_added, find_tokenizer, write_for_transformers, write_tokenizer

# ── Read ─────────────────────────────────────────────────────────────────────────────────────────────────────


def read_huggingface(
    directory: Path, tell: Callable[[str], None], tokenizer: Tokenizer | None = None, kind: str | None = None
) -> LanguageModel:
    """Reads the layout.

    Args:
        directory: holds the files.
        tell: receives lines about what is left out, new or changed in form.
        tokenizer: replaces the one in the directory.
        kind: what the head reads, see `found_heads.read_head`.

    Raises:
        UserError: a file is missing or damaged, the files do not fit each other, or the model is of another kind.
    """
    described = read_config(directory / "config.json")
    family, _, rows, hidden = described
    tensors, heads = find_tensors(directory, described, tell)
    if dtypes := {tensor.dtype for tensor in tensors.values()} - {"float32"}:
        tell(f"The weights are {' and '.join(sorted(dtypes))}; float32 holds the same numbers.")
    arrays = {name: narrow(name, tensor.read(), hidden) for name, tensor in tensors.items()}
    for copy, name in family.copies.items():
        if copy in arrays and not np.array_equal(arrays.pop(copy), arrays[name]):
            raise UserError(
                f"{directory} has {copy} that differs from {name}, but a {family.title} ties them; convert a model "
                "that does."
            )
    config, added = dataclasses.replace(described.config, d_ff=hidden), []
    if tokenizer is None:
        tokenizer = find_tokenizer(directory, rows, family)
        added = find_added(directory, tokenizer.vocab_size)
    weights = _ours(family, config, rows, arrays)
    specials = weights["tokens"][tokenizer.vocab_size :]
    head = read_head(directory, family, heads, specials, tell, kind)
    return LanguageModel(config, weights, tokenizer, head, added=added)


def _ours(
    family: Family, config: ModelConfig, rows: int, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns our parameters of the published tensors."""
    sizes = axis_sizes(config, rows)
    weights: dict[str, np.ndarray] = {}
    parts: dict[str, list[np.ndarray]] = {}
    for place in family.places(config, rows):
        array = place.weight.ours_of(arrays[place.name], sizes)
        if place.weight.part is None:
            weights[place.key] = array
        else:
            # Query, key and value come in this order.
            parts.setdefault(place.key, []).append(array)
    return weights | {key: np.stack(several, axis=-3) for key, several in parts.items()}


# ── Write ────────────────────────────────────────────────────────────────────────────────────────────────────


def write_huggingface(model: LanguageModel, directory: Path, tell: Callable[[str], None]) -> None:
    """Writes a language model, or what it became by fine-tuning, into an existing directory.

    Args:
        model: if it has a head, `task_heads.why_not` does not object to its task.
        directory: where to write.
        tell: receives lines about what is left out, and how to use the model.

    Raises:
        UserError: the model has more hidden units than the layout can hold.
    """
    config, family = model.config, model.family
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        tell(line)

    values = config_values(config, model.rows, note)
    if family is GPT2 and model.tokenizer.end_id is not None:
        # Otherwise transformers takes the number of the published vocabulary.
        values |= dict.fromkeys(("bos_token_id", "eos_token_id"), model.tokenizer.end_id)
    wide = HIDDEN_FACTOR * config.d_model if family.always_four else config.d_ff
    weights = {place.name: widen(place.name, array, wide) for place, array in model.published()}
    heads, unfolded = {}, {}
    if model.head is not None:
        values |= add_head(model, weights, heads, unfolded, note)
    if unfolded:
        write_safetensors(unfolded, directory / UNFOLDED)
    (directory / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    write_safetensors(
        {family.full(name): array for name, array in weights.items()} | heads, directory / SAFETENSORS
    )
    # Under the names of GPT-1's vocabulary, other families look for one of theirs.
    names = HUGGING_FACE_FILES if family is GPT1 else OPENAI_FILES
    write_tokenizer(model.tokenizer, directory, names, surrounded=not config.causal)
    write_for_transformers(model, directory, note)
    write_card(model, values, directory, notes)
