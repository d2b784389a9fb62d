"""Batches: a function of (seed, step); an epoch has each window once, evaluation each token once."""

from itertools import pairwise

import numpy as np
import pytest

from gpt1_jax.data.batches import EvaluationBatches, PretrainingBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.errors import UserError
from gpt1_jax.hashing import hash_numbers


def stream(*lengths: int) -> Split:
    """Returns a split whose token at position i is i, in shards of the given lengths."""
    tokens = np.arange(sum(lengths), dtype=np.uint16)
    shards = tuple(np.split(tokens, np.cumsum(lengths)[:-1]))
    return Split(shards, documents=1, bytes=len(tokens))


SPLIT = stream(100, 100, 100, 7)  # N = 307; with T = 8 an epoch has (307 - 8) // 8 = 37 windows


def pretraining(seed: int = 0, batch_size: int = 4, split: Split = SPLIT) -> PretrainingBatches:
    return PretrainingBatches(split, seed=seed, batch_size=batch_size, context_length=8)


def starts_of_epochs(batches: PretrainingBatches, epochs: int) -> list[list[int]]:
    """Returns where the windows of each epoch begin."""
    n = batches.examples_per_epoch
    steps = -(-epochs * n // batches.batch_size)
    starts = [int(row[0, 0]) for s in range(steps) for row in batches.rows(s, 0, batches.batch_size).tokens]
    return [starts[e * n : (e + 1) * n] for e in range(epochs)]


def test_targets_are_the_next_tokens_also_across_shards() -> None:
    batches = pretraining()
    for step in range(20):
        batch = batches.rows(step, 0, 4)
        assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (4, 1, 8)
        assert batch.noise.shape == (4, 1)
        assert [array.dtype for array in batch[:5]] == [np.int32, np.int32, np.float32, np.uint32, np.uint32]
        np.testing.assert_array_equal(batch.targets, batch.tokens + 1)
        np.testing.assert_array_equal(np.diff(batch.tokens), 1)


def test_each_epoch_visits_every_window_once_from_its_own_offset_in_its_own_order() -> None:
    batches = pretraining()
    assert batches.examples_per_epoch == 37
    epochs = starts_of_epochs(batches, 12)
    offsets = [min(starts) for starts in epochs]
    for starts, offset in zip(epochs, offsets, strict=True):
        assert 0 <= offset < 8
        assert sorted(starts) == [offset + 8 * i for i in range(37)]
    assert len(set(offsets)) >= 4
    orders = {tuple((s - o) // 8 for s in starts) for starts, o in zip(epochs, offsets, strict=True)}
    assert len(orders) == 12
    assert max(map(max, epochs)) + 8 < len(SPLIT)


@pytest.mark.parametrize("length", [16, 17, 24, 25])
def test_short_streams_have_an_epoch_of_a_window_or_two(length: int) -> None:
    batches = pretraining(split=stream(length))
    for starts in starts_of_epochs(batches, 5):
        assert len(set(starts)) == (length - 8) // 8
        assert max(starts) + 8 < length


def test_any_rows_of_a_batch_can_be_read_alone() -> None:
    batches = pretraining(batch_size=10)
    for step in (0, 3, 4, 1000):  # step 3 crosses into the second epoch
        whole = batches.rows(step, 0, 10)
        for parts in [(0, 5, 10), (0, 1, 2, 9, 10), range(11)]:
            pieces = [batches.rows(step, a, b) for a, b in pairwise(parts)]
            for array, arrays in zip(
                whole[:5], zip(*(piece[:5] for piece in pieces), strict=True), strict=True
            ):
                np.testing.assert_array_equal(array, np.concatenate(arrays))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one, same, other = pretraining(seed=1), pretraining(seed=1), pretraining(seed=2)
    same.rows(7, 0, 4)  # what was read before leaves no trace
    for a, b in zip(one.rows(5, 0, 4)[:5], same.rows(5, 0, 4)[:5], strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.rows(5, 0, 4).tokens != other.rows(5, 0, 4).tokens).any()
    assert (one.rows(5, 0, 4).noise != other.rows(5, 0, 4).noise).all()
    assert (one.rows(5, 0, 4).noise != one.rows(6, 0, 4).noise).all()
    updates = [
        (a.rows(step, 0, 4).update, a.rows(step, 2, 3).update) for a in (one, other) for step in (5, 6)
    ]
    assert len({int(seed) for both in updates for rows in both for seed in rows}) == len(updates)


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    assert starts_of_epochs(pretraining(batch_size=1), 2) == starts_of_epochs(pretraining(batch_size=7), 2)


def test_the_weights_of_a_global_batch_sum_to_one() -> None:
    batches = pretraining(batch_size=6)
    assert batches.rows(0, 0, 6).weights.sum() == pytest.approx(1)
    assert batches.rows(0, 0, 2).weights.sum() == pytest.approx(1 / 3)


def test_a_stream_shorter_than_two_windows_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.context_length=8 is .*15.*at most 7"):
        pretraining(split=stream(15))


# ── Evaluation ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("length", [2, 8, 9, 10, 307])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_evaluation_has_every_token_but_the_first_as_target_once(length: int, batch_size: int) -> None:
    batches = EvaluationBatches(stream(length), batch_size=batch_size, context_length=8)
    targets: list[int] = []
    for step in range(batches.num_batches):
        batch = batches.rows(step, 0, batch_size)
        real = batch.weights == 1
        assert ((batch.weights == 0) | real).all() and real.any()
        np.testing.assert_array_equal(batch.targets[real], batch.tokens[real] + 1)
        assert not batch.targets[~real].any() and not batch.noise.any()
        assert [array.dtype for array in batch[:5]] == [np.int32, np.int32, np.float32, np.uint32, np.uint32]
        targets += batch.targets[real].tolist()
    assert sorted(targets) == list(range(1, length))


def test_any_first_evaluation_batches_are_a_fair_sample() -> None:
    batches = EvaluationBatches(stream(40_000), batch_size=16, context_length=8)
    first = np.concatenate([batches.rows(step, 0, 16).tokens[:, 0, 0] for step in range(20)])
    thirds = np.histogram(first, bins=4, range=(0, 40_000))[0]
    assert (thirds > 50).all(), thirds


def test_evaluation_rows_can_be_read_alone() -> None:
    batches = EvaluationBatches(SPLIT, batch_size=6, context_length=8)
    step = batches.num_batches - 1  # with rows that only fill the batch
    whole = batches.rows(step, 0, 6)
    pieces = [batches.rows(step, a, b) for a, b in [(0, 1), (1, 4), (4, 6)]]
    for array, arrays in zip(whole[:5], zip(*(piece[:5] for piece in pieces), strict=True), strict=True):
        np.testing.assert_array_equal(array, np.concatenate(arrays))


def test_an_empty_stream_cannot_be_evaluated() -> None:
    with pytest.raises(UserError, match=r"data\.source"):
        EvaluationBatches(stream(1), batch_size=1, context_length=8)


# ── Noise ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_noise_has_no_pattern_over_steps_rows_and_seeds() -> None:
    seeds, steps, rows = np.ogrid[0:4, 0:256, 0:256]
    noise = hash_numbers(seeds, steps, rows, 0)
    assert noise.shape == (4, 256, 256) and noise.dtype == np.uint32
    # 2**18 random numbers of 32 bits have 8 collisions on average
    assert noise.size - len(np.unique(noise)) < 25
    # neighbours in any direction differ in half of their bits
    for axis in range(3):
        flipped = np.bitwise_count(noise.take(range(1, noise.shape[axis]), axis) ^ noise.take([0], axis))
        assert abs(flipped.mean() - 16) < 0.05
    # and no step is a shifted copy of another
    for shift in range(-3, 4):
        assert (noise[:, :-1] == np.roll(noise[:, 1:], shift, axis=-1)).sum() == 0
    ones = np.array([((noise >> bit) & 1).mean() for bit in range(32)])
    assert (abs(ones - 0.5) < 0.005).all()


def test_noise_of_a_row_is_that_of_the_whole() -> None:
    assert hash_numbers(7, 8, 9) == hash_numbers(7, np.arange(20), 9)[8]
    assert hash_numbers(7, 8) != hash_numbers(8, 7)
