"""The tensors of a family in transformers' files, under whatever names they were saved."""

import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from gpt1_jax.config import ModelConfig
from gpt1_jax.errors import UserError
from gpt1_jax.interop.config_json import ModelDescription
from gpt1_jax.interop.family import Family, TensorPlace
from gpt1_jax.interop.head_forms import WITH_BIAS
from gpt1_jax.interop.json_files import shown
from gpt1_jax.interop.tensors import DTYPES, Tensor, open_safetensors, open_tensors
from gpt1_jax.model.layers import starting

# The head of a classifier without a bias, and the last norm, as they were before these carried the bias.
UNFOLDED = "language_model_norm.safetensors"
# Parts that heads, torch.compile and PyTorch's distributed wrappers add to a model's own names.
_AROUND = {"transformer", "bert", "_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Masks and the like, which older files contain.
_BUFFERS = re.compile(
    r"h\.\d+\.attn\.(bias|masked_bias)|(embeddings\.)?position_ids|embeddings\.token_type_ids"
)
_HEADS = ("score.", "multiple_choice_head.", "classifier.", "qa_outputs.", "cls.seq_relationship.")


def find_tensors(
    directory: Path, described: ModelDescription, tell: Callable[[str], None]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the model's tensors, with the copies that the files have of some, and those of heads, by their names.

    Args:
        directory: holds the files.
        described: what the model is.
        tell: receives lines about what is left out or new.

    Raises:
        UserError: a file is missing or damaged, or does not hold such a model.
    """
    family, config, rows, _ = described
    found, heads = _language_model(directory, family, config)
    tensors, copies = {}, {}
    for copy, name in family.copies.items():
        if copy in found:
            copies[copy] = found.pop(copy)
            # Some classes of transformers save only the copy.
            found.setdefault(name, copies[copy])
    new = _new_tensors(directory, family, found, tell)
    for place in family.places(config, rows):
        if place.weight.ours in new:
            tensors[place.name] = _starting(config, place)
            continue
        if place.name not in found:
            raise UserError(
                f"{directory} has no {place.name}, expected one of shape {list(place.shape)}; bring all weights."
            )
        tensors[place.name] = checked(directory, place.name, found.pop(place.name), place.shape)
    for copy, tensor in copies.items():
        tensors[copy] = checked(directory, copy, tensor, tensors[family.copies[copy]].shape)
    for name, tensor in found.items():
        raise UserError(
            f"{directory} has {shown(name)} of shape {list(tensor.shape)}, which does not belong to the model that its "
            "config.json describes; convert a model of that kind and size."
        )
    return tensors, heads


def _language_model(
    directory: Path, family: Family, config: ModelConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the tensors in the files by today's names: those of the language model, and those of heads."""
    found: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    for name, tensor in open_tensors(directory).items():
        short = ".".join(part for part in name.split(".") if part not in _AROUND)
        for older, newer in family.older.items():
            short = short.replace(older, newer)
        if short in found:
            raise UserError(f"{directory} has {shown(short)} both with and without a prefix; remove one.")
        if short.startswith(_HEADS):
            heads[short] = tensor
        elif not _BUFFERS.fullmatch(short):
            found[short] = tensor
    if (path := directory / UNFOLDED).is_file():
        norm = family.last_norm(config)
        kept = open_safetensors(path)
        found |= {name: tensor for name, tensor in kept.items() if name in norm}
        heads |= {name: tensor for name, tensor in kept.items() if name in WITH_BIAS}
    return found, heads


def _new_tensors(
    directory: Path, family: Family, found: Mapping[str, Tensor], tell: Callable[[str], None]
) -> set[str]:
    """Returns our names of what the files lack altogether, where they may."""
    new: set[str] = set()
    for what, names in family.optional.items():
        if not any(family.name_of(name) in found for name in names):
            tell(
                f"{directory} has no {what}; a new one takes its place, which is of no use before it is trained."
            )
            new.update(names)
    return new


def _starting(config: ModelConfig, place: TensorPlace) -> Tensor:
    """Returns a tensor outside the blocks as it is when a training starts."""

    def read() -> np.ndarray:
        if len(place.shape) == 1:
            return np.full(place.shape, place.weight.ours.endswith("scale"), np.float32)
        key = jax.random.key(zlib.crc32(place.name.encode()))
        return np.asarray(starting(config)(key, place.shape, np.float32))

    return Tensor(place.shape, "float32", read)


def checked(directory: Path, name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns a tensor of the files, which has that shape and numbers.

    Raises:
        UserError: it has not.
    """
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
