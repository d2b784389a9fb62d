"""Dropout: the specified hash, fair and independent masks, and the same ones however a batch is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support import tiny_model, use_mesh

from gpt1_jax.hashing import mix
from gpt1_jax.model.dropout import (
    Dropout,
    drop_tables,
    embedding_dropout,
    grid_index,
    keep_mask,
    layer_dropouts,
)
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training.state import initial_state

WIDTH, LENGTH = 64, 1024
INDEX = grid_index((jnp.arange(LENGTH), WIDTH), (jnp.arange(WIDTH), 1))
M32 = 0xFFFFFFFF


def mix_of_integers(x: int) -> int:
    """The hash of the specification, in Python's integers."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & M32
    return x ^ (x >> 16)


def signs(noise: int, site: int, rate: float = 0.5) -> np.ndarray:
    """A mask as a flat array of mean 0 and variance 1."""
    keep = np.asarray(keep_mask(jnp.array([noise], jnp.uint32), site, INDEX, rate))[0].ravel()
    return (keep - (1 - rate)) / np.sqrt(rate * (1 - rate))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_mask_is_the_specified_hash(rate: float) -> None:
    noises, index, site = [0, 1, 0xDEADBEEF, M32], [0, 1, 77, 2**31 + 5, M32], 11
    keep = keep_mask(jnp.array(noises, jnp.uint32), site, jnp.array(index, jnp.uint32), rate)
    for row, noise in enumerate(noises):
        offset = mix_of_integers((noise + 0x9E3779B9 * site) & M32)
        multiplier = mix_of_integers(offset ^ 0x85EBCA6B) | 1
        hashed = [mix_of_integers((i * multiplier + offset) & M32) for i in index]
        assert keep[row].tolist() == [h >= round(rate * 2**32) for h in hashed]


def test_every_input_bit_of_the_hash_reaches_every_output_bit() -> None:
    x = np.random.default_rng(0).integers(0, 2**32, 20_000, np.uint32)
    for bit in range(32):
        changed = np.asarray(mix(jnp.asarray(x)) ^ mix(jnp.asarray(x ^ np.uint32(1 << bit))))
        flips = (changed[:, None] >> np.arange(32, dtype=np.uint32) & 1).mean(0)
        assert np.abs(flips - 0.5).max() < 0.03


def test_the_hash_collides_nowhere() -> None:
    assert len(np.unique(mix(jnp.arange(2**20, dtype=jnp.uint32)))) == 2**20


def test_the_index_of_a_grid_counts_modulo_two_to_the_32() -> None:
    index = grid_index((jnp.array([0, 3]), 2**31), (jnp.array([1, 2, 5]), 7))
    assert index.dtype == jnp.uint32
    assert index.tolist() == [[7, 14, 35], [(3 * 2**31 + i) % 2**32 for i in (7, 14, 35)]]


def test_no_two_places_of_the_model_share_a_site() -> None:
    config, noise = tiny_model(), jnp.zeros(1, jnp.uint32)
    layers = [dropout for layer in range(12) for dropout in layer_dropouts(config, noise, layer)]
    assert len({int(dropout.site) for dropout in [embedding_dropout(config, noise), *layers]}) == 1 + 3 * 12


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_elements_are_dropped_at_the_rate(rate: float) -> None:
    """Within five standard deviations, of a mask and of all masks together."""
    noise = jnp.array([0, 1, 2, 3, 123_456_789], jnp.uint32)
    dropped = np.stack(
        [1 - np.asarray(keep_mask(noise, site, INDEX, rate)).mean((1, 2)) for site in range(6)]
    )
    deviation = np.sqrt(rate * (1 - rate) / INDEX.size)
    assert np.abs(dropped - rate).max() < 5 * deviation
    assert abs(dropped.mean() - rate) < 5 * deviation / np.sqrt(dropped.size)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.75])
def test_what_stays_is_scaled_by_one_over_the_keep_rate(rate: float) -> None:
    x = jax.random.normal(jax.random.key(0), (3, LENGTH, WIDTH))
    noise = jnp.arange(3, dtype=jnp.uint32)
    dropped, keep = Dropout(noise, 1, rate, 1).elements(x, INDEX), keep_mask(noise, 1, INDEX, rate)
    np.testing.assert_allclose(dropped, np.where(keep, np.asarray(x) / (1 - rate), 0), rtol=1e-6)


def test_without_noise_or_rate_nothing_changes() -> None:
    x = jax.random.normal(jax.random.key(0), (2, LENGTH, WIDTH))
    noise = jnp.arange(2, dtype=jnp.uint32)
    assert Dropout(None, 0, 0.5, 1).elements(x, INDEX) is x
    np.testing.assert_array_equal(Dropout(noise, 0, 0.0, 1).elements(x, INDEX), x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_type_stays(dtype: jnp.dtype) -> None:
    x = jnp.ones((1, LENGTH, WIDTH), dtype)
    assert Dropout(jnp.zeros(1, jnp.uint32), 0, 0.1, 1).elements(x, INDEX).dtype == dtype


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_masks_are_independent_at_every_shift(rate: float) -> None:
    """No mask is correlated with another one, of a neighbouring site or noise, shifted by whatever lag.

    Of 2¹⁶ lags the greatest correlation of independent masks is near 4.7/√n; a shifted copy would have √n/√n.
    """
    places = [
        (5, 0),
        (5, 1),
        (5, 2),
        (5, 3),
        (5, 36),
        (6, 0),
        (6, 1),
        (7, 0),
        (5 + 2**31, 0),
        (0, 0),
        (M32, 0),
    ]
    spectra = [np.fft.rfft(signs(noise, site, rate)) for noise, site in places]
    n = INDEX.size
    for i, first in enumerate(spectra):
        for second in spectra[: i + 1]:
            correlation = np.fft.irfft(first * second.conj(), n) / n
            if first is second:
                correlation[0] = 0
            assert np.abs(correlation).max() < 6.5 / np.sqrt(n)


def test_a_shorter_sequence_has_the_beginning_of_the_mask() -> None:
    noise = jnp.arange(4, dtype=jnp.uint32)
    short = grid_index((jnp.arange(100), WIDTH), (jnp.arange(WIDTH), 1))
    np.testing.assert_array_equal(keep_mask(noise, 3, short, 0.1), keep_mask(noise, 3, INDEX, 0.1)[:, :100])


def test_a_row_has_its_mask_in_any_batch() -> None:
    noise = jnp.array([9, 8, 7, 6], jnp.uint32)
    whole = keep_mask(noise, 3, INDEX, 0.1)
    np.testing.assert_array_equal(keep_mask(noise[2:3], 3, INDEX, 0.1), whole[2:3])


@pytest.mark.parametrize("axes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_masks_are_the_same_on_every_mesh(axes: tuple[int, int, int]) -> None:
    noise = jnp.arange(8, dtype=jnp.uint32)
    expected = np.asarray(keep_mask(noise, 2, INDEX, 0.1))
    with use_mesh(*axes) as mesh:
        split = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))

        def masked(noise: jax.Array) -> jax.Array:
            index = grid_index((jnp.arange(LENGTH), WIDTH), (jnp.arange(WIDTH), 1))
            return keep_mask(noise, 2, index, 0.1)

        mask = jax.jit(masked, out_shardings=split)(
            jax.device_put(noise, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
        )
        assert len(mask.sharding.device_set) == 8
    np.testing.assert_array_equal(mask, expected)


def test_entries_of_the_tables_are_dropped_alike_on_every_mesh() -> None:
    """One mask an update for the token table and the positions behind it; the same update drops the same."""
    config = tiny_model(embedding_dropout_form="matrix", embedding_dropout=0.25)
    found = []
    for shape in [(1, 1, 1), (2, 2, 2)]:
        with use_mesh(*shape) as mesh:
            params = initial_state(Transformer(config, 101), optax.identity(), mesh, seed=0).params
            params = jax.tree.map(lambda leaf: leaf + 1, params)
            drop = jax.jit(lambda params, update: drop_tables(params, update, config))
            found.append([jax.device_get(drop(params, jnp.uint32(update))) for update in (1, 1, 2)])
    (one, same, other), meshed = found[0], found[1][0]
    for name in ("tokens", "positions"):
        assert abs((one[name] == 0).mean() - 0.25) < 0.05
        np.testing.assert_array_equal(one[name], same[name])
        np.testing.assert_array_equal(one[name], meshed[name])
        assert (one[name] != other[name]).any()
    np.testing.assert_array_equal(one["blocks"]["qkv_kernel"], same["blocks"]["qkv_kernel"])
    length = len(one["positions"])
    assert ((one["tokens"][:length] == 0) != (one["positions"] == 0)).any()
