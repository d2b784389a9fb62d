"""A checksum of each array shows whether a checkpoint is what was saved; it is computed where the array lies."""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from gpt1_jax.hashing import mix


@jax.jit
def _checksums(leaves: list[jax.Array]) -> list[jax.Array]:
    def one(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
        # The row-major index is made without a reshape, which would gather a sharded array.
        index = jnp.uint32(0)
        for axis, size in enumerate(x.shape):
            index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        return mix(bits + mix(index + 1)).sum(dtype=jnp.uint32)

    return [one(x) for x in leaves]


def checksums(state: Any) -> dict[str, int]:
    """Returns a checksum of each array by its path, computed on the devices that hold it and equal on every mesh.

    It is Σ mix(bits + mix(index + 1)) modulo 2³² over arrays of 32-bit numbers, and detects swapped rows and flipped
    bits.
    """
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    sums = jax.device_get(_checksums([leaf for _, leaf in leaves]))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): int(value)
        for (path, _), value in zip(leaves, sums, strict=True)
    }


def seal(sums: dict[str, int]) -> dict[str, Any]:
    """Returns checksums as the metadata of a checkpoint, with a checksum of their own."""
    text = json.dumps(sums, sort_keys=True)
    return {"checksums": text, "crc32": zlib.crc32(text.encode())}


def unseal(metadata: Any) -> dict[str, int]:
    """Returns the checksums from what `seal` made.

    Raises:
        ValueError: they are missing or changed.
    """
    if not isinstance(metadata, dict) or "checksums" not in metadata:
        raise ValueError("its metadata is missing")
    if zlib.crc32(metadata["checksums"].encode()) != metadata.get("crc32"):
        raise ValueError("its metadata has changed")
    return json.loads(metadata["checksums"])
