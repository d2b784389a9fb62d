"""The one hash, a bijection of uint32, which dropout's masks, batches and checksums share, and seeded permutations."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:  # the workers that tokenize are spared the second that jax takes
    import jax

Bits = TypeVar("Bits", np.ndarray, "jax.Array")


def mix(bits: Bits) -> Bits:
    """Applies a bijection of uint32 in which every input bit changes half of the output bits (multiply-xorshift).

    Args:
        bits: uint32 [...], an array of NumPy or of jax, within a kernel as well.

    Returns:
        uint32 [...].
    """
    bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def hash_numbers(*numbers: int | np.ndarray) -> np.ndarray:
    """Returns a hash of each tuple of numbers, with arrays broadcast: uint32, in which every bit is as good as random.

    Each number is mixed before it joins the rest; otherwise neighbouring steps and rows would be shifted copies.
    """
    hashed = np.zeros((), np.uint32)
    with np.errstate(over="ignore"):  # multiplication is modulo 2**32
        for number in numbers:
            hashed = mix(hashed ^ mix(np.asarray(number).astype(np.uint32) + np.uint32(0x9E3779B9)))
    return hashed


def index_shuffle(index: int, *, max_index: int, seed: int, rounds: int) -> int:
    """Returns where a seeded permutation of 0 to max_index takes an index, see `grain.experimental.index_shuffle`."""
    # Imported late: grain takes half a second, and the commands that use a run make no such batches.
    from grain import experimental

    return experimental.index_shuffle(index, max_index=max_index, seed=seed, rounds=rounds)
