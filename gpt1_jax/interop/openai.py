"""The authors' own format: params_shapes.json, params_0.npy … params_9.npy, and the vocabulary's two files.

The ten files together hold one flat float32 vector: the tensors of GPT-1's table (`families`), end to end. Their
shapes are listed in params_shapes.json. The authors wrote the kernels of the blocks as convolutions of width 1, so
these have a 1 in front.
"""

import io
import json
import math
from pathlib import Path

import numpy as np

from gpt1_jax.config import ModelConfig
from gpt1_jax.data.tokenizers.gpt1 import OPENAI_FILES
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.interop.families import GPT1
from gpt1_jax.interop.family import TensorPlace, axis_sizes
from gpt1_jax.interop.json_files import is_size, read_json, shown
from gpt1_jax.interop.published import LanguageModel, imported
from gpt1_jax.interop.tokenizers import find_tokenizer, write_tokenizer

SHAPES = "params_shapes.json"
PARTS = tuple(f"params_{number}.npy" for number in range(10))
# The published model's width of a head; the format does not record the number of heads.
HEAD_WIDTH = 64

# The number of tensors before the blocks, and in each block.
_TABLES, _BLOCK = 2, 12


def read_openai(
    directory: Path, num_heads: int | None = None, tokenizer: Tokenizer | None = None
) -> LanguageModel:
    """Reads the format.

    Args:
        directory: holds the files.
        tokenizer: replaces the one in the directory.
        num_heads: None means one for each 64 of the width.

    Raises:
        UserError: a file is missing or damaged, or the files do not fit each other.
    """
    path = directory / SHAPES
    listed = _read_shapes(path)
    config = _find_config(listed, num_heads)
    rows = listed[1][0]
    places = list(GPT1.places(config, rows))
    for number, (found, place) in enumerate(zip(listed, places, strict=True)):
        if tuple(found) != _as_listed(place):
            raise UserError(
                f"{path} has the shape {shown(found)} at place {number} (from 0), where {place.name} has "
                f"{list(_as_listed(place))}; restore it from where it came."
            )
    parts = [_open_part(directory / name) for name in PARTS]
    sizes = [math.prod(place.shape) for place in places]
    if sum(map(len, parts)) != sum(sizes):
        raise UserError(
            f"{directory} has {sum(map(len, parts)):,} numbers in {PARTS[0]} to {PARTS[-1]}, but {SHAPES} describes "
            f"{sum(sizes):,}; bring files that belong together."
        )
    vectors = np.split(np.concatenate(parts), np.cumsum(sizes)[:-1])
    axes = axis_sizes(config, rows)
    weights = {
        place.key: place.weight.ours_of(vector.reshape(place.shape), axes)
        for place, vector in zip(places, vectors, strict=True)
    }
    return LanguageModel(config, weights, tokenizer or find_tokenizer(directory, rows))


def write_openai(model: LanguageModel, directory: Path) -> None:
    """Writes the format, without a head, into an existing directory.

    Raises:
        UserError: the model is not the authors' of some size, which is all that the format tells.
    """
    config, usual = model.config, ModelConfig()
    for name in ("norm", "causal", "activation", "norm_epsilon"):
        if (value := getattr(config, name)) != getattr(usual, name):
            raise UserError(
                f"The format openai does not tell model.{name}={value}, and its readers assume "
                f"{getattr(usual, name)}; convert to huggingface instead."
            )
    published = list(model.published())
    (directory / SHAPES).write_text(json.dumps([_as_listed(place) for place, _ in published]))
    flat = np.concatenate([array.ravel() for _, array in published])
    for name, part in zip(PARTS, np.array_split(flat, len(PARTS)), strict=True):
        # If NumPy wrote to the disk itself, it would hide why the disk refused.
        content = io.BytesIO()
        np.save(content, part)
        (directory / name).write_bytes(content.getbuffer())
    write_tokenizer(model.tokenizer, directory, OPENAI_FILES)


def _as_listed(place: TensorPlace) -> tuple[int, ...]:
    return (1, *place.shape) if place.layer is not None and len(place.shape) == 2 else place.shape


def _read_shapes(path: Path) -> list[list[int]]:
    """Reads params_shapes.json, which must list shapes of positive whole numbers, one for each of a model's tensors."""
    listed = read_json(path)

    def is_shape(value: object) -> bool:
        return isinstance(value, list) and bool(value) and all(map(is_size, value))

    if not isinstance(listed, list) or not all(map(is_shape, listed)):
        raise UserError(
            f"{path} is not a list of shapes, each a list of whole numbers from 1 to 2**31 - 1; restore it from "
            "where it came."
        )
    if len(listed) < _TABLES + _BLOCK or (len(listed) - _TABLES) % _BLOCK:
        raise UserError(
            f"{path} lists {len(listed)} shapes, expected {_TABLES} and {_BLOCK} for each block; restore it from where "
            "it came."
        )
    return listed


def _find_config(listed: list[list[int]], num_heads: int | None) -> ModelConfig:
    """Returns the config whose sizes follow from the shapes."""
    width, hidden_bias = listed[0][-1], listed[_TABLES + 7]
    if num_heads is None and width % HEAD_WIDTH:
        raise UserError(
            f"The width {width} is not a multiple of {HEAD_WIDTH}, the width of a head in the published model, and the "
            "format openai does not record the number of heads; set it by --num_heads."
        )
    return imported(
        ModelConfig(
            num_layers=(len(listed) - _TABLES) // _BLOCK,
            num_heads=num_heads or width // HEAD_WIDTH,
            d_model=width,
            d_ff=hidden_bias[0],
            context_length=listed[0][0],
        )
    )


def _open_part(path: Path) -> np.ndarray:
    """Opens a vector of float32 that stays on disk; nothing in the file is executed, or can make this allocate."""
    if not path.is_file():
        raise UserError(f"{path} is missing; the weights are in {PARTS[0]} to {PARTS[-1]}.")
    try:
        part = np.lib.format.open_memmap(path, mode="r")
    # NumPy's reader raises many kinds of errors on a damaged header.
    except Exception as error:
        raise UserError(
            f"{path} is damaged or does not hold a plain array of numbers; restore it from where it came."
        ) from error
    if part.ndim != 1 or part.dtype != np.float32:
        raise UserError(
            f"{path} holds {part.dtype} of shape {list(part.shape)}, expected a vector of float32; restore it from "
            "where it came."
        )
    return part
