"""Batches of examples: each once an epoch, in buckets of similar length, and a function of (seed, step)."""

import dataclasses
import itertools
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gpt1_jax.tasks.batches import (
    NUM_EVALUATION_WIDTHS,
    NUM_WIDTHS,
    TaskBatch,
    TaskBatches,
    TaskEvaluationBatches,
    assemble,
    choose_widths,
    in_two_widths,
)
from gpt1_jax.tasks.encoded import EncodedExamples, LabelForm
from gpt1_jax.tasks.grouping import Batching, Grouping, Remainder

START, EXTRACT = 1001, 1002


def encoded(lengths: list[list[int]], outputs: int = 2) -> EncodedExamples:
    """Examples whose sequences have some lengths, of at least 3: example n says n throughout, sequence s in its start.

    lengths [N][S]; the labels are random.
    """
    sequences = [
        [START + 10 * s, *[number + 1] * (length - 2), EXTRACT]
        for number, example in enumerate(lengths)
        for s, length in enumerate(example)
    ]
    labels = np.random.default_rng(0).random((len(lengths), outputs), np.float32)
    flat = np.array(list(itertools.chain(*sequences)), np.uint16)
    return EncodedExamples(
        flat, np.cumsum([0, *map(len, sequences)]), labels, np.zeros(len(labels), np.int64)
    )


def random_examples(count: int, sequences: int = 1, seed: int = 0) -> EncodedExamples:
    """Examples of skewed lengths, from 3 to 200, most of them short."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(3, 0.7, (count, sequences)), 3, 200).astype(int)
    return encoded(lengths.tolist())


def numbers(batch: TaskBatch) -> list[int]:
    """Which examples a batch has, in the order of its rows."""
    return [int(row[0, 1]) - 1 for row in batch.tokens if row.any()]


def batches_of(
    examples: EncodedExamples,
    batch_size: int,
    *,
    seed: int = 0,
    rule: Batching = "bucketed",
    remainder: Remainder = "spread",
) -> TaskBatches:
    return TaskBatches(examples, Grouping(rule, remainder, batch_size), seed=seed)


def arrays_of(batch: TaskBatch) -> list[np.ndarray]:
    """The fields of a batch, of a causal model without types and groups."""
    return [array for array in batch if array is not None]


def batch_lengths(batch: TaskBatch) -> np.ndarray:
    """Returns the tokens of each sequence, [B, S], or 0."""
    return (batch.tokens > 0).sum(-1)


def epoch_of(batches: TaskBatches, epoch: int = 0) -> list[TaskBatch]:
    steps = batches.steps_per_epoch
    return [batches.rows(step, 0, batches.batch_size) for step in range(epoch * steps, (epoch + 1) * steps)]


# ── A batch ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_are_padded_sequences_with_the_next_token_as_target() -> None:
    batch = assemble(encoded([[3, 5], [4, 3]]), np.array([1, 0]), rows=3, width=6, batch=np.array([1, 0]))
    a, b, e = 1001, 1011, EXTRACT
    assert batch.tokens.tolist() == [
        [[a, 2, 2, e, 0, 0], [b, 2, e, 0, 0, 0]],
        [[a, 1, e, 0, 0, 0], [b, 1, 1, 1, e, 0]],
        [[0] * 6, [0] * 6],
    ]
    assert batch.targets.tolist() == [
        [[2, 2, e, 0, 0, 0], [2, e, 0, 0, 0, 0]],
        [[1, e, 0, 0, 0, 0], [1, 1, 1, e, 0, 0]],
        [[0] * 6, [0] * 6],
    ]
    dtypes = [np.int32, np.int32, np.float32, np.uint32, np.uint32, np.float32, np.float32]
    assert [array.dtype for array in arrays_of(batch)] == dtypes


def test_the_extract_token_is_an_input_and_a_target_however_tight_the_width() -> None:
    batch = assemble(encoded([[6]]), np.array([0]), rows=1, width=6, batch=np.array([0]))
    assert batch.tokens[0, 0, -1] == EXTRACT
    assert batch.targets[0, 0].tolist() == [1, 1, 1, 1, EXTRACT, 0]
    assert batch.weights[0, 0].tolist() == pytest.approx([1 / 5] * 5 + [0])


def test_weights_are_the_mean_of_a_sequence_then_over_sequences() -> None:
    """Two examples of two sequences with 2, 4, 3 and 2 targets: each sequence has a quarter."""
    batch = assemble(encoded([[3, 5], [4, 3]]), np.array([0, 1]), rows=3, width=5, batch=np.array([0, 1]))
    np.testing.assert_allclose(
        batch.weights,
        [
            [[1 / 8, 1 / 8, 0, 0, 0], [1 / 16, 1 / 16, 1 / 16, 1 / 16, 0]],
            [[1 / 12, 1 / 12, 1 / 12, 0, 0], [1 / 8, 1 / 8, 0, 0, 0]],
            [[0] * 5, [0] * 5],
        ],
    )
    assert batch.label_weights.tolist() == [[0.5], [0.5], [0]]


@pytest.mark.parametrize("sequences", [1, 2, 4])
@pytest.mark.parametrize(("rule", "remainder"), [("pools", "spread"), ("shuffled", "dropped")])
def test_both_weights_of_every_global_batch_sum_to_one(
    rule: Batching, remainder: Remainder, sequences: int
) -> None:
    examples = random_examples(45, sequences)
    for batch in epoch_of(batches_of(examples, 8, rule=rule, remainder=remainder)):
        assert batch.weights.sum() == pytest.approx(1, rel=1e-5)
        assert batch.label_weights.sum() == pytest.approx(1, rel=1e-6)
        assert ((batch.weights > 0).sum(-1) == np.maximum(batch_lengths(batch) - 1, 0)).all()


@pytest.mark.parametrize("rule", ["shuffled", "bucketed"])
@pytest.mark.parametrize(("count", "size"), [(45, 8), (40, 8), (9, 8), (3, 8)])
def test_where_none_is_dropped_all_examples_of_an_epoch_weigh_the_same(
    rule: Batching, count: int, size: int
) -> None:
    """And a batch as many of them as it has, which is 1 in the mean."""
    seen = epoch_of(batches_of(random_examples(count, 2), size, rule=rule))
    for batch in seen:
        real = len(numbers(batch))
        np.testing.assert_allclose(batch.label_weights[:real], len(seen) / count, rtol=1e-6)
        np.testing.assert_allclose(batch.weights[:real].sum((1, 2)), len(seen) / count, rtol=1e-5)
        assert not batch.label_weights[real:].any() and not batch.weights[real:].any()


def test_labels_are_those_of_the_examples() -> None:
    examples = random_examples(45)
    for batch in epoch_of(batches_of(examples, 8)):
        chosen = numbers(batch)
        np.testing.assert_array_equal(batch.labels[: len(chosen), 0], examples.labels[chosen])


def labelled(form: LabelForm, labels: list[Any], classes: int = 0) -> EncodedExamples:
    """Three examples of 4, 3 and 5 tokens."""
    return dataclasses.replace(
        encoded([[4], [3], [5]]), form=form, labels=np.array(labels, np.int32), classes=classes
    )


def test_tags_lie_at_their_positions_and_every_tag_of_the_batch_weighs_the_same() -> None:
    examples = labelled("tags", [-1, 2, 0, -1, -1, 1, -1, -1, -1, -1, -1, -1], classes=3)
    assert examples.places().tolist() == [2, 1, 0]
    batch = assemble(examples, np.array([1, 0]), rows=3, width=6, batch=np.array([1, 0, 2]))
    assert batch.labels.shape == (3, 6, 3) and batch.labels.dtype == np.float32
    tags = np.where(batch.labels.any(-1), batch.labels.argmax(-1), -1)
    assert tags.tolist() == [[-1, 1, -1, -1, -1, -1], [-1, 2, 0, -1, -1, -1], [-1] * 6]
    np.testing.assert_allclose(batch.label_weights, (tags >= 0) / 3)


def test_both_ends_of_a_span_are_distributions_over_positions() -> None:
    examples = labelled("spans", [[1, 2], [-1, -1], [0, 0]])
    assert examples.places().tolist() == [2, 0, 2]
    batch = assemble(examples, np.array([0, 1, 2]), rows=3, width=5, batch=np.array([0, 1, 2]))
    assert batch.labels.shape == (3, 2, 5)
    assert [[row.nonzero()[0].tolist() for row in pair] for pair in batch.labels] == [
        [[1], [2]],
        [[], []],
        [[0], [0]],
    ]
    np.testing.assert_allclose(batch.label_weights, [[0.25, 0.25], [0, 0], [0.25, 0.25]])


# ── An epoch ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rule", ["shuffled", "bucketed"])
@pytest.mark.parametrize(("count", "size"), [(45, 8), (40, 8), (3, 8), (1, 1), (45, 1), (130, 2)])
def test_every_epoch_has_every_example_once_in_batches_that_differ_by_one_at_most(
    rule: Batching, count: int, size: int
) -> None:
    batches = batches_of(random_examples(count), size, rule=rule)
    assert batches.steps_per_epoch == -(-count // size)
    for epoch in range(3):
        seen = epoch_of(batches, epoch)
        assert sorted(itertools.chain(*map(numbers, seen))) == list(range(count))
        sizes = {len(numbers(batch)) for batch in seen}
        assert max(sizes) <= size and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("count", "size"), [(45, 8), (40, 8), (3, 8), (1, 1), (45, 1), (130, 2)])
def test_under_the_earlier_rule_every_epoch_has_every_example_and_one_ragged_batch_at_most(
    count: int, size: int
) -> None:
    """130 examples in batches of 2 make more than one pool."""
    batches = batches_of(random_examples(count), size, rule="pools")
    assert batches.steps_per_epoch == -(-count // size)
    for epoch in range(3):
        seen = epoch_of(batches, epoch)
        assert sorted(itertools.chain(*map(numbers, seen))) == list(range(count))
        sizes = sorted(len(numbers(batch)) for batch in seen)
        assert sizes[1:] == [size] * (len(sizes) - 1)


@pytest.mark.parametrize("rule", ["shuffled", "bucketed"])
def test_dropping_leaves_out_what_fills_no_batch_and_others_in_each_epoch(rule: Batching) -> None:
    batches = batches_of(random_examples(45), 8, rule=rule, remainder="dropped")
    assert batches.steps_per_epoch == 5
    left_out = set()
    for epoch in range(4):
        seen = list(itertools.chain(*map(numbers, epoch_of(batches, epoch))))
        assert len(seen) == len(set(seen)) == 40
        left_out.add(frozenset(range(45)) - frozenset(seen))
    assert len(left_out) == 4


def test_fewer_examples_than_a_batch_holds_are_not_dropped() -> None:
    batches = batches_of(random_examples(3), 8, rule="shuffled", remainder="dropped")
    assert batches.steps_per_epoch == 1 and sorted(numbers(epoch_of(batches)[0])) == [0, 1, 2]


def test_rows_that_fill_a_ragged_batch_come_last_and_weigh_nothing() -> None:
    seen = epoch_of(batches_of(random_examples(45, 2), 8, rule="pools"))
    (ragged,) = (batch for batch in seen if len(numbers(batch)) < 8)
    assert (ragged.label_weights[:, 0] > 0).tolist() == [True] * 5 + [False] * 3
    assert ragged.label_weights[:5, 0] == pytest.approx(1 / 5)
    for array in (ragged.tokens, ragged.targets, ragged.weights, ragged.labels):
        assert array[:5].any() and not array[5:].any()


def test_another_epoch_or_seed_is_another_order() -> None:
    examples = random_examples(45)
    orders = {
        tuple(itertools.chain(*map(numbers, epoch_of(batches_of(examples, 8, seed=seed), epoch))))
        for seed in range(4)
        for epoch in range(3)
    }
    assert len(orders) == 12


def test_long_and_short_batches_are_mixed() -> None:
    batches = batches_of(random_examples(800), 2)
    means = [batch_lengths(batch).mean() for batch in epoch_of(batches)]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3


def test_any_rows_of_a_batch_can_be_read_alone() -> None:
    batches = batches_of(random_examples(45, 2), 8, seed=3)
    for step in range(2 * batches.steps_per_epoch):  # the ragged ones too
        whole = batches.rows(step, 0, 8)
        for array, part in zip(arrays_of(whole), arrays_of(batches.rows(step, 2, 5)), strict=True):
            np.testing.assert_array_equal(part, array[2:5])
        for parts in [(0, 4, 8), (0, 1, 2, 7, 8), range(9)]:
            pieces = [batches.rows(step, a, b) for a, b in pairwise(parts)]
            for array, arrays in zip(
                arrays_of(whole), zip(*map(arrays_of, pieces), strict=True), strict=True
            ):
                np.testing.assert_array_equal(np.concatenate(arrays), array)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    examples = random_examples(45)
    one, same = (batches_of(examples, 8, seed=1) for _ in range(2))
    for step in (30, 2, 17):
        same.rows(step, 0, 8)  # what was read before leaves no trace
    for a, b in zip(one.rows(5, 0, 8), same.rows(5, 0, 8), strict=True):
        np.testing.assert_array_equal(a, b)


def test_noise_differs_between_sequences_rows_steps_epochs_and_seeds() -> None:
    examples = random_examples(45, 3)
    noises = [
        batches_of(examples, 8, seed=seed).rows(step, 0, 8).noise
        for seed in (1, 2)
        for step in (0, 1, 6)  # of which 6 begins the second epoch
    ]
    assert noises[0].shape == (8, 3) and noises[0].dtype == np.uint32
    assert len(np.unique(noises)) == 2 * 3 * 8 * 3


# ── Widths ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_batches_come_in_few_shapes_as_the_samples_foretell() -> None:
    batches = batches_of(random_examples(500, 2), 8)
    shapes = {batch.tokens.shape for epoch in range(3) for batch in epoch_of(batches, epoch)}
    assert 1 < len(shapes) <= NUM_WIDTHS
    for step in range(3 * batches.steps_per_epoch):
        assert batches.sample(step).tokens.shape[1:] == batches.rows(step, 0, 8).tokens.shape[1:]
    batch = batches.rows(0, 0, 8)
    sample = batches.sample(0)
    assert [(a.shape[1:], a.dtype) for a in arrays_of(sample)] == [
        (a.shape[1:], a.dtype) for a in arrays_of(batch)
    ]


def test_as_many_widths_as_pay_for_compiling_are_chosen() -> None:
    """A hundred examples are padded to one width, many to all that are allowed; a number that is set is kept."""
    few, many = random_examples(100, 1), random_examples(20_000, 1)
    grouping = Grouping("bucketed", "spread", 16)
    assert len(TaskBatches(few, grouping, seed=0, num_widths=0).widths) == 1
    assert len(TaskBatches(few, grouping, seed=0, num_widths=3).widths) == 3
    assert len(TaskBatches(many, grouping, seed=0, num_widths=0).widths) == NUM_WIDTHS


def test_a_batch_takes_the_narrowest_width_that_fits_its_longest_sequence() -> None:
    batches = batches_of(random_examples(500, 2), 8)
    for batch in epoch_of(batches):
        longest = batch_lengths(batch).max()
        assert batch.tokens.shape[-1] == min(width for width in batches.widths if width >= longest)


@pytest.mark.parametrize(("rule", "most"), [("pools", 1.7), ("bucketed", 2.0), ("shuffled", 5)])
def test_padding_is_below_that_of_a_fixed_width(rule: Batching, most: float) -> None:
    examples = random_examples(4000)
    seen = epoch_of(batches_of(examples, 16, rule=rule))
    real, fixed = examples.tokens.size, 4000 * int(examples.lengths().max())
    assert fixed > 6 * real
    assert sum(batch.tokens.size for batch in seen) < most * real


def padded(widths: tuple[int, ...], lengths: np.ndarray) -> int:
    """All tokens when each length takes the narrowest width that fits."""
    return sum(min(width for width in widths if width >= length) for length in lengths.tolist())


@pytest.mark.parametrize("count", [1, 2, 4])
def test_widths_are_the_best_of_all_sets_of_widths(count: int) -> None:
    """Tries all sets of `count` widths among the multiples of 8 and the longest length."""
    generator = np.random.default_rng(count)
    for _ in range(60):
        lengths = generator.integers(2, generator.integers(4, 75), generator.integers(1, 30))
        longest = int(lengths.max())
        inner = range(8, longest, 8)
        best = min(
            padded((*chosen, longest), lengths)
            for size in range(count)
            for chosen in itertools.combinations(inner, size)
        )
        widths = choose_widths(lengths, count)
        assert len(widths) <= count and widths == sorted(set(widths))
        assert padded(tuple(widths), lengths) == best


def test_there_are_no_more_widths_than_lengths() -> None:
    assert choose_widths(np.array([16])) == [16]
    assert choose_widths(np.array([13, 16, 14])) == [16]
    assert choose_widths(np.array([32, 16, 32, 14])) == [16, 32]
    assert choose_widths(np.array([8, 16, 24, 32])) == [8, 16, 24, 32]
    assert choose_widths(np.array([8, 16, 24, 32]), 1) == [32]


def test_no_width_is_beyond_the_longest_example_where_the_context_may_end() -> None:
    assert choose_widths(np.array([20, 19, 3])) == [8, 20]
    assert choose_widths(np.array([5])) == [5]


# ── Evaluation ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("count", "size"), [(45, 8), (40, 8), (3, 8), (1, 1)])
def test_evaluation_has_every_example_once_where_its_order_says(count: int, size: int) -> None:
    examples = random_examples(count, 2)
    shared = in_two_widths(examples.lengths(), size)
    batches = TaskEvaluationBatches(examples, shared)
    seen = [batches.rows(step, 0, size) for step in range(len(shared))]
    order = [number for some, _, _ in shared for number in some.tolist()]
    assert list(itertools.chain(*map(numbers, seen))) == order
    assert sorted(order) == list(range(count))
    assert {batch.tokens.shape[:2] for batch in seen} == {(size, 2)}
    assert len({batch.tokens.shape for batch in seen}) <= NUM_EVALUATION_WIDTHS
    assert not any(batch.noise.any() for batch in seen)
    assert sum((batch.label_weights > 0).sum() for batch in seen) == count


def test_evaluation_batches_grow_longer_and_pad_little() -> None:
    examples = random_examples(500)
    shared = in_two_widths(examples.lengths(), 8)
    lengths = examples.lengths()[np.concatenate([some for some, _, _ in shared])]
    assert (np.diff(lengths) >= 0).all()
    assert sum(rows * width for _, rows, width in shared) < 0.5 * 500 * lengths.max()


def test_evaluation_rows_can_be_read_alone() -> None:
    examples = random_examples(45, 2)
    shared = in_two_widths(examples.lengths(), 8)
    batches = TaskEvaluationBatches(examples, shared)
    for step in range(len(shared)):
        whole = batches.rows(step, 0, 8)
        pieces = [batches.rows(step, a, b) for a, b in [(0, 1), (1, 6), (6, 8)]]
        for array, arrays in zip(arrays_of(whole), zip(*map(arrays_of, pieces), strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(arrays), array)
