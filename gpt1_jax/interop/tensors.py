"""Tensors in files of the PyTorch world: their shapes first, each one's numbers only when they are asked for."""

import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.numpy import bfloat16  # its import is what lets NumPy, and so safetensors, know the type
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gpt1_jax.errors import UserError
from gpt1_jax.interop.files import read_json, shown

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"  # behind either name, where the tensors are in parts
# What float32 holds exactly, by safetensors' names.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": np.dtype(bfloat16).name}


class Tensor(NamedTuple):
    """A tensor in a file.

    Fields:
        dtype: one of DTYPES' values, or another name.
        read: its numbers, float32, where the dtype is one of these.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def open_tensors(directory: Path) -> dict[str, Tensor]:
    """The tensors by name of model.safetensors or else of pytorch_model.bin, either of them whole or in parts.

    Raises:
        UserError: none of these is there, or it is damaged, or torch is needed and missing.
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
    """The tensors of one file.

    Raises:
        UserError: it is damaged or missing.
    """
    try:
        file: Any = safe_open(path, framework="np")  # checks all lengths and offsets against the file
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

    return {name: describe(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)


def write_safetensors(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes tensors as PyTorch's world reads them; raises OSError where the disk does."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        save_file(contiguous, path, metadata={"format": "pt"})
    except SafetensorError as error:
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
        raise


def _open_parts(index: Path, opener: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that an index names, each out of the file that it names."""
    listed = read_json(index)
    places = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f"{index} has no weight_map of file names; restore it from where it came.")
    beside = {path.name for path in index.parent.iterdir() if path.is_file()}
    parts = {}
    for file in sorted(set(places.values())):
        if file not in beside:  # nor any file of another directory
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
        import torch  # pyright: ignore[reportMissingImports] (of no use to anything else here)
    except ImportError:
        raise UserError(
            f"{path} needs PyTorch to be read and torch is not installed; install it, or bring {SAFETENSORS}."
        ) from None
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd pickles, which the sentence below tells of
            state = torch.load(path, map_location="cpu", weights_only=True)  # tensors alone, no code
    except Exception as error:  # torch raises many kinds on a damaged file
        raise UserError(
            f"{path} is damaged or holds other things than tensors; restore it from where it came."
        ) from error

    def describe(name: object, value: Any) -> Tensor:
        plain = (
            isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        )
        if not isinstance(name, str) or not plain:
            raise UserError(
                f"{path} holds {shown(name)}, which is no plain tensor; bring the model's state alone."
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(
                f"{path} holds {shown(name)} as a view that repeats its numbers; save it contiguous."
            )
        dtype = str(value.dtype).removeprefix("torch.")
        return Tensor(tuple(value.shape), dtype, lambda: value.detach().to(torch.float32).numpy())

    if not isinstance(state, dict):
        raise UserError(
            f"{path} holds a {type(state).__name__}, expected the model's state, tensors by name."
        )
    return {name: describe(name, value) for name, value in state.items()}
