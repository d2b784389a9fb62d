"""Tensors in PyTorch's files: shapes are read at once, and the numbers of a tensor only on request."""

import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Importing bfloat16 makes the type known to NumPy, and so to safetensors.
from jax.numpy import bfloat16
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gpt1_jax.errors import UserError
from gpt1_jax.interop.json_files import read_json, shown

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
# Follows either name if the tensors are split over several files.
INDEX = ".index.json"
# The types whose values float32 holds exactly, by safetensors' names.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": np.dtype(bfloat16).name}


class Tensor(NamedTuple):
    """A tensor in a file.

    Attributes:
        shape: the lengths of its axes.
        dtype: one of DTYPES' values, or another name.
        read: returns the numbers as float32, if the dtype is one of DTYPES' values.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def open_tensors(directory: Path) -> dict[str, Tensor]:
    """Opens model.safetensors, or else pytorch_model.bin, whole or in parts; returns the tensors by name.

    Raises:
        UserError: none of these files exists, or one is damaged, or torch is needed but missing.
    """
    for name, opener in ((SAFETENSORS, open_safetensors), (PICKLE, _open_pickle)):
        if (directory / name).is_file():
            return opener(directory / name)
        if (directory / f"{name}{INDEX}").is_file():
            return _open_parts(directory / f"{name}{INDEX}", opener)
    raise UserError(
        f"{directory} has none of {SAFETENSORS}, {SAFETENSORS}{INDEX}, {PICKLE} and {PICKLE}{INDEX}; name one that has "
        "weights."
    )


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """Opens one file and returns its tensors by name.

    Raises:
        UserError: the file is damaged or missing.
    """
    try:
        # Opening checks all lengths and offsets against the file.
        file: Any = safe_open(path, framework="np")
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({reason}); restore it from where it came.") from error

    def describe(name: str) -> Tensor:
        part = file.get_slice(name)
        dtype = str(part.get_dtype())
        return Tensor(
            tuple(part.get_shape()),
            DTYPES.get(dtype, dtype),
            lambda: file.get_tensor(name).astype(np.float32, copy=False),
        )

    # `file` is not a dictionary, and cannot be iterated itself.
    return {name: describe(name) for name in file.keys()}  # noqa: SIM118


def write_safetensors(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes tensors as PyTorch's programs read them.

    Raises:
        OSError: the disk refuses.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        save_file(contiguous, path, metadata={"format": "pt"})
    except SafetensorError as error:
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
        raise


def _open_parts(index: Path, opener: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the tensors that an index lists, each from the file that the index names."""
    listed = read_json(index)
    places = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f"{index} has no weight_map of file names; restore it from where it came.")
    beside = {path.name for path in index.parent.iterdir() if path.is_file()}
    parts = {}
    for file in sorted(set(places.values())):
        # Only files of the same directory are allowed.
        if file not in beside:
            raise UserError(
                f"{index} names the file {shown(file)}, which does not lie beside it; bring all files."
            )
        parts[file] = opener(index.parent / file)
    for name, file in places.items():
        if name not in parts[file]:
            raise UserError(
                f"{index} places {shown(name)} in {shown(file)}, which has no such tensor; bring files that belong "
                "together."
            )
    return {name: parts[file][name] for name, file in places.items()}


def _open_pickle(path: Path) -> dict[str, Tensor]:
    try:
        # torch serves nothing else here.
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"{path} needs PyTorch to be read and torch is not installed; install it, or bring {SAFETENSORS}."
        ) from None
    try:
        # Warnings about odd pickles add nothing to the sentences below.
        with warnings.catch_warnings(action="ignore"):
            # weights_only loads tensors and runs no code.
            state = torch.load(path, map_location="cpu", weights_only=True)
    # torch raises many kinds of errors on a damaged file.
    except Exception as error:
        raise UserError(
            f"{path} is damaged or holds other things than tensors; restore it from where it came."
        ) from error

    def describe(name: object, value: Any) -> Tensor:
        plain = (
            isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        )
        if not isinstance(name, str) or not plain:
            raise UserError(
                f"{path} holds {shown(name)}, which is not a plain tensor; bring only the model's state."
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(
                f"{path} holds {shown(name)} as a view that repeats its numbers; save it contiguous."
            )
        dtype = str(value.dtype).removeprefix("torch.")
        return Tensor(tuple(value.shape), dtype, lambda: value.detach().to(torch.float32).numpy())

    if not isinstance(state, dict):
        raise UserError(
            f"{path} holds a {type(state).__name__}, expected the model's state, tensors by name; bring that."
        )
    return {name: describe(name, value) for name, value in state.items()}
