"""Dropout whose mask is a keyed hash of an element's place, not drawn from a stream of random keys.

The noise of the sequence, the site in the network and the index there decide whether an element stays. Masks are
therefore bit-equal on every mesh, in micro-batches, query chunks and shorter sequences, under scan and remat.

Letters: B sequences, T positions, D width, H heads, Q queries, S keys, C context length.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt1_jax.config import ModelConfig
from gpt1_jax.hashing import mix


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["noise", "site"],
    meta_fields=["rate", "context_length"],
)
@dataclass(frozen=True)
class Dropout:
    """Drops elements of an activation at one site of the network, and scales the others by 1/(1 − rate).

    Attributes:
        noise: uint32 [B], one seed per sequence; None drops nothing.
        site: the place in the network, from 0.
        rate: the probability that an element is dropped, in [0, 1).
        context_length: C, the stride of indices, so that a mask does not depend on how far a batch is padded.
    """

    noise: jax.Array | None
    site: jax.Array | int
    rate: float
    context_length: int

    @property
    def active(self) -> bool:
        """Whether anything is dropped."""
        return self.noise is not None and self.rate > 0

    def states(self, x: jax.Array) -> jax.Array:
        """Drops elements of x [B, T, D]; an element's index is its position times D plus its feature."""
        length, width = x.shape[1:]
        return self.elements(x, grid_index((jnp.arange(length), width), (jnp.arange(width), 1)))

    def weights(self, x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
        """Drops elements of attention weights x [B, H, Q, S], given the positions of queries [Q] and keys [S]."""
        stride = self.context_length
        heads = jnp.arange(x.shape[1])
        return self.elements(x, grid_index((heads, stride * stride), (rows, stride), (columns, 1)))

    def elements(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """Drops elements of x [B, ...] by their index, uint32 in (or broadcasting to) x's shape without B."""
        if self.noise is None or self.rate == 0:
            return x
        kept = keep_mask(self.noise, self.site, index, self.rate)
        return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)


class LayerDropouts(NamedTuple):
    """The dropouts of one layer: for its attention's weights, its attention's output and its MLP's output."""

    weights: Dropout
    attended: Dropout
    mlp: Dropout


def embedding_dropout(config: ModelConfig, noise: jax.Array | None) -> Dropout:
    """Returns the dropout of the summed embeddings, at site 0; inactive if the tables have dropout instead."""
    rate = config.embedding_dropout if config.embedding_dropout_form == "vectors" else 0.0
    return Dropout(noise, 0, rate, config.context_length)


def layer_dropouts(config: ModelConfig, noise: jax.Array | None, layer: jax.Array | int) -> LayerDropouts:
    """Returns the dropouts of a layer, counted from 0, at the three sites of its own."""
    rates = config.attention_dropout, config.residual_dropout, config.residual_dropout
    return LayerDropouts(
        *(Dropout(noise, 3 * layer + 1 + i, rate, config.context_length) for i, rate in enumerate(rates))
    )


def drop_tables(params: Any, update: jax.Array, config: ModelConfig) -> Any:
    """Drops entries of a trunk's tables if the config's form is "matrix"; otherwise returns the parameters unchanged.

    The authors' `model` drops entries of its one matrix of tokens, specials and positions in this way: all sequences of
    an update look up the same dropped rows, and the output reads them too.

    Args:
        params: "tokens" [V, D] and, of the Transformer, "positions" [C, D], whose rows are counted after it.
        update: uint32 [], the seed of the update.
        config: the trunk's config.
    """
    if config.embedding_dropout_form == "vectors":
        return params
    dropout = Dropout(update[None], 0, config.embedding_dropout, config.context_length)
    dropped, first = {}, 0
    for name in ("tokens", "positions"):
        if name in params:
            rows, width = params[name].shape
            index = grid_index((first + jnp.arange(rows), width), (jnp.arange(width), 1))
            dropped[name] = dropout.elements(params[name][None], index)[0]
            first += rows
    return {**params, **dropped}


def keep_mask(noise: jax.Array, site: jax.Array | int, index: jax.Array, rate: float) -> jax.Array:
    """Returns which elements stay.

    The hash is keyed by an offset and an odd multiplier; with only an offset, the masks of two sites would be
    shifted copies of each other.

    Args:
        noise, site, rate: as in `Dropout`.
        index: uint32 [...], the position of each element within its sequence's activation.

    Returns:
        bool [B, ...].
    """
    offset, multiplier = stream(noise, site)
    shape = (-1,) + (1,) * index.ndim
    hashed = mix(index * multiplier.reshape(shape) + offset.reshape(shape))
    return hashed >= threshold(rate)


def stream(noise: jax.Array, site: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """Returns the offset and the odd multiplier, uint32 [B], that key the hash of each sequence at a site."""
    offset = mix(noise + jnp.uint32(0x9E3779B9) * jnp.asarray(site).astype(jnp.uint32))
    return offset, mix(offset ^ jnp.uint32(0x85EBCA6B)) | 1


def head_stride(context_length: int) -> jax.Array:
    """Returns what the next head adds to the index of a weight, uint32."""
    return jnp.uint32(context_length**2 % 2**32)


def threshold(rate: float) -> jax.Array:
    """Returns the least uint32 hash that keeps its element."""
    return jnp.uint32(round(rate * 2**32))


def grid_index(*axes: tuple[jax.Array, int]) -> jax.Array:
    """Returns the uint32 index of each element of a grid: the sum over axes of coordinate · stride, modulo 2³².

    Args:
        *axes: for each axis its coordinates, an integer array [n], and its stride.
    """
    total = jnp.uint32(0)
    for axis, (coordinates, stride) in enumerate(axes):
        shape = [1] * len(axes)
        shape[axis] = -1
        total = total + (coordinates.astype(jnp.uint32) * jnp.uint32(stride)).reshape(shape)
    return jnp.asarray(total)
