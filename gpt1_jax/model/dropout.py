"""Dropout whose mask is a keyed hash of where an element is, not a stream of random keys.

An element's fate depends on the noise of its sequence, the site in the network and its index there, so masks
are bit-equal on every mesh, in micro-batches, query chunks and shorter sequences, under scan and remat.
"""

import jax
import jax.numpy as jnp

from gpt1_jax.hashing import mix

EMBEDDING_SITE = 0


def layer_sites(layer: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The sites of a layer's attention weights, attention output and MLP output; `layer` counts from 0."""
    first = 3 * layer + 1
    return first, first + 1, first + 2


def keep_mask(noise: jax.Array, site: jax.Array | int, index: jax.Array, rate: float) -> jax.Array:
    """Which elements stay.

    The hash is keyed by an offset and an odd multiplier: with an offset alone the masks of two sites would be
    shifted copies of each other.

    Args:
        noise: uint32 [B], one seed a sequence.
        site: the place in the network, from 0.
        index: uint32 [...], the position of each element within its sequence's activation.
        rate: the probability that an element is dropped, in [0, 1).

    Returns:
        bool [B, ...].
    """
    offset, multiplier = stream(noise, site)
    shape = (-1,) + (1,) * index.ndim
    hashed = mix(index * multiplier.reshape(shape) + offset.reshape(shape))
    return hashed >= threshold(rate)


def stream(noise: jax.Array, site: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """The offset and the odd multiplier, uint32 [B], that key the hash of each sequence at a site."""
    offset = mix(noise + jnp.uint32(0x9E3779B9) * jnp.asarray(site).astype(jnp.uint32))
    return offset, mix(offset ^ jnp.uint32(0x85EBCA6B)) | 1


def threshold(rate: float) -> jax.Array:
    """The uint32 from which on a hash keeps its element."""
    return jnp.uint32(round(rate * 2**32))


def grid_index(*axes: tuple[jax.Array, int]) -> jax.Array:
    """uint32 index of each element of a grid: the sum over axes of coordinate · stride, modulo 2³².

    Args:
        *axes: for each axis its coordinates, an integer array [n], and its stride.
    """
    total = jnp.uint32(0)
    for axis, (coordinates, stride) in enumerate(axes):
        shape = [1] * len(axes)
        shape[axis] = -1
        total = total + (coordinates.astype(jnp.uint32) * jnp.uint32(stride)).reshape(shape)
    return jnp.asarray(total)


def dropout(
    x: jax.Array, noise: jax.Array | None, site: jax.Array | int, index: jax.Array, rate: float
) -> jax.Array:
    """x with elements dropped at `rate` and the rest scaled by 1/(1 − rate); x itself where noise is None.

    Args:
        x: [B, ...].
        noise, site, index, rate: as in `keep_mask`, index of x's shape without B.
    """
    if noise is None or rate == 0:
        return x
    return jnp.where(keep_mask(noise, site, index, rate), x / (1 - rate), 0).astype(x.dtype)
