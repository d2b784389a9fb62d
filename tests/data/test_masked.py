"""Masked batches: what is hidden, how often, and always alike; weights only there."""

import math
from itertools import pairwise

import numpy as np
import pytest
from vocabulary_support import golden

from gpt1_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from gpt1_jax.data.batches import Batch
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.masked import MaskedBatches, MaskedEvaluationBatches, Masking, most_chosen
from gpt1_jax.data.text_batches import evaluation_batches, training_batches
from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from gpt1_jax.data.tokenizers.library_training import train_byte_bpe, train_wordpiece
from gpt1_jax.data.tokenizers.sentencepiece import train_sentencepiece
from gpt1_jax.errors import UserError

TEXTS = [row["text"] for row in golden()]
LENGTH = 66  # so that N = 64


@pytest.fixture(scope="module", params=[train_wordpiece, train_byte_bpe])
def tokenizer(request: pytest.FixtureRequest) -> HuggingFaceTokenizer:
    return request.param(iter(TEXTS), 700)


@pytest.fixture(scope="module")
def split(tokenizer: HuggingFaceTokenizer) -> Split:
    end = [tokenizer.end_id]
    stream = np.concatenate([end, *(np.append(ids, end) for ids in tokenizer.encode_batch(TEXTS, threads=1))])
    return Split((stream.astype(np.uint16),), documents=len(TEXTS), bytes=1)


def training(
    tokenizer: HuggingFaceTokenizer,
    split: Split,
    seed: int = 0,
    batch_size: int = 8,
    whole_words: bool = False,
) -> MaskedBatches:
    masking = Masking.of(tokenizer, whole_words)
    return MaskedBatches(split, masking, seed=seed, batch_size=batch_size, context_length=LENGTH)


def steps(batches: MaskedBatches, count: int) -> Batch:
    """The rows of many batches, one after the other, without the middle dimension of length 1."""
    parts = [batches.rows(step, 0, batches.batch_size) for step in range(count)]
    tokens, targets, weights = (np.concatenate([part[i] for part in parts])[:, 0] for i in range(3))
    return Batch(tokens, targets, weights, parts[0].noise, parts[0].update)


def test_a_window_stands_between_cls_and_sep_and_its_targets_are_the_originals(
    tokenizer: HuggingFaceTokenizer, split: Split
) -> None:
    batch = training(tokenizer, split).rows(0, 0, 8)
    assert [array.dtype for array in batch[:5]] == [np.int32, np.int32, np.float32, np.uint32, np.uint32]
    assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (8, 1, LENGTH)
    assert batch.types is None and batch.groups is None
    ids, stream = tokenizer.special_ids, split.read(0, len(split))
    windows = np.lib.stride_tricks.sliding_window_view(stream, LENGTH - 2)
    for tokens, targets, weights in zip(*(array[:, 0] for array in batch[:3]), strict=True):
        assert (tokens[0], tokens[-1]) == (targets[0], targets[-1]) == (ids["cls"], ids["sep"])
        assert (windows == targets[1:-1]).all(1).any()
        np.testing.assert_array_equal(tokens[weights == 0], targets[weights == 0])


def test_fifteen_percent_are_chosen_and_fare_as_in_the_paper(
    tokenizer: HuggingFaceTokenizer, split: Split
) -> None:
    tokens, targets, weights, *_ = steps(training(tokenizer, split), 150)
    chosen, ids = weights > 0, tokenizer.special_ids
    special = np.isin(targets, [*ids.values(), tokenizer.end_id])
    assert not (chosen & special).any()
    np.testing.assert_array_equal(chosen.sum(1), np.maximum(1, np.round(0.15 * (~special).sum(1))))
    masked = (tokens == ids["mask"])[chosen].mean()
    kept = (tokens == targets)[chosen].mean()
    count = chosen.sum()
    assert abs(masked - 0.8) < 5 * math.sqrt(0.8 * 0.2 / count)
    # A random piece is now and then the same one.
    assert abs(kept - 0.1 - 0.1 / 690) < 5 * math.sqrt(0.1 * 0.9 / count)
    others = tokens[chosen & (tokens != targets) & (tokens != ids["mask"])]
    assert len(set(others.tolist())) > 500 and not np.isin(others, [*ids.values(), tokenizer.end_id]).any()
    # Every place of a window is as likely as any other.
    share = chosen.mean(0)[1:-1] / (~special).mean(0)[1:-1]
    assert abs(share - 0.15).max() < 6 * math.sqrt(0.15 * 0.85 / len(tokens))


def test_the_places_of_a_batch_are_those_of_its_weights_in_training_and_validation(
    tokenizer: HuggingFaceTokenizer, split: Split
) -> None:
    """A place that is left over is the first position, which is never hidden."""
    masking = Masking.of(tokenizer, whole_words=False)
    short = Split((split.read(0, 64 * 3 + 20),), 1, 1)
    held_out = MaskedEvaluationBatches(short, masking, batch_size=4, context_length=LENGTH)
    for batch in (training(tokenizer, split).rows(2, 0, 8), held_out.rows(0, 0, 4)):
        assert batch.places is not None and batch.places.shape[1:] == (1, most_chosen(LENGTH)) == (1, 10)
        for places, weights in zip(batch.places[:, 0], batch.weights[:, 0], strict=True):
            count = np.count_nonzero(weights)
            np.testing.assert_array_equal(places[:count], np.flatnonzero(weights))
            assert not places[count:].any() and weights[0] == 0


def test_the_weights_of_a_global_batch_sum_to_one_and_windows_share_it_equally(
    tokenizer: HuggingFaceTokenizer, split: Split
) -> None:
    for whole_words in (False, True):
        batch = training(tokenizer, split, whole_words=whole_words).rows(3, 0, 8)
        assert batch.weights.sum() == pytest.approx(1)
        np.testing.assert_allclose(batch.weights.sum((1, 2)), 1 / 8, rtol=1e-6)


def test_a_batch_depends_on_seed_and_step_alone_and_any_rows_of_it_can_be_read_alone(
    tokenizer: HuggingFaceTokenizer, split: Split
) -> None:
    batches = training(tokenizer, split, seed=1)
    whole = batches.rows(5, 0, 8)
    for parts in [(0, 3, 8), range(9)]:
        pieces = [training(tokenizer, split, seed=1).rows(5, a, b) for a, b in pairwise(parts)]
        for number in range(5):
            np.testing.assert_array_equal(whole[number], np.concatenate([piece[number] for piece in pieces]))
    for other in (training(tokenizer, split, seed=2).rows(5, 0, 8), batches.rows(6, 0, 8)):
        assert ((other.weights > 0) != (whole.weights > 0)).any()
    # The same window is hidden otherwise in another epoch.
    one = training(tokenizer, split, batch_size=1)
    hidden = {one.rows(step, 0, 1).tokens.tobytes() for step in range(one.examples_per_epoch * 3)}
    assert len(hidden) == one.examples_per_epoch * 3


def test_whole_words_are_hidden_whole(tokenizer: HuggingFaceTokenizer, split: Split) -> None:
    """Words are found in the text itself, by white space, or for WordPiece by its mark."""
    wordpiece = not tokenizer.exact
    texts = [tokenizer.decode([id]) for id in range(700)]
    inside = np.array([text.startswith("##") if wordpiece else not text[:1].isspace() for text in texts])
    closes = np.array([not wordpiece and text[-1:].isspace() for text in texts])
    special = np.isin(np.arange(700), [*tokenizer.special_ids.values(), tokenizer.end_id])
    batches = training(tokenizer, split, whole_words=True)
    _, targets, weights, *_ = steps(batches, 50)
    row, chosen = targets[:, 1:-1], weights[:, 1:-1] > 0
    one_word = (inside & ~special)[row[:, 1:]] & ~(closes | special)[row[:, :-1]]
    assert not ((chosen[:, 1:] != chosen[:, :-1]) & one_word).any()
    assert (chosen[:, 1:] & one_word).sum() > 1000
    share = (weights > 0).mean()
    assert 0.12 < share <= 0.15 + 1 / LENGTH
    assert (weights > 0).any(1).all()


def test_validation_hides_the_same_pieces_for_every_batch_size(
    tokenizer: HuggingFaceTokenizer, split: Split
) -> None:
    masking = Masking.of(tokenizer, whole_words=False)
    short = Split((split.read(0, 64 * 10 + 30),), 1, 1)
    found = []
    for size in (1, 4, 7):
        batches = MaskedEvaluationBatches(short, masking, batch_size=size, context_length=LENGTH)
        assert batches.num_batches == -(-11 // size)
        rows = [batches.rows(step, 0, size) for step in range(batches.num_batches)]
        hidden = sorted(
            (targets.tobytes(), tokens.tobytes(), weights.tobytes())
            for batch in rows
            for tokens, targets, weights in zip(*(array[:, 0] for array in batch[:3]), strict=True)
            if weights.any()
        )
        found.append(hidden)
        assert set(np.concatenate([batch.weights.ravel() for batch in rows]).tolist()) == {0, 1}
    assert found[0] == found[1] == found[2] and len(found[0]) == 11


def test_the_rest_of_a_last_window_is_padding_that_attends_to_itself(
    tokenizer: HuggingFaceTokenizer, split: Split
) -> None:
    masking, ids = Masking.of(tokenizer, whole_words=False), tokenizer.special_ids
    short = Split((split.read(0, 30),), 1, 1)
    batch = MaskedEvaluationBatches(short, masking, batch_size=2, context_length=LENGTH).rows(0, 0, 2)
    assert batch.groups is not None
    real, filling = batch.tokens[0, 0], batch.tokens[1, 0]
    assert real[31] == ids["sep"] and (real[32:] == ids["pad"]).all()
    np.testing.assert_array_equal(batch.groups[0, 0], [0] * 32 + [-1] * 34)
    np.testing.assert_array_equal(batch.targets[0, 0, 1:31], short.read(0, 30))
    assert not batch.weights[1].any() and filling[:2].tolist() == [ids["cls"], ids["sep"]]


def test_the_config_decides_the_batches(tokenizer: HuggingFaceTokenizer, split: Split) -> None:
    bert = Config(
        model=ModelConfig(causal=False, context_length=LENGTH),
        data=DataConfig(whole_words=True),
        train=TrainConfig(batch_size=8),
    )
    expected = training(tokenizer, split, whole_words=True).rows(2, 0, 8)
    batch = training_batches(bert, tokenizer, split).rows(2, 0, 8)
    np.testing.assert_array_equal(batch.tokens, expected.tokens)
    assert isinstance(evaluation_batches(bert, tokenizer, split, 4), MaskedEvaluationBatches)
    with pytest.raises(UserError, match=r"model\.context_length=66.*at most 52"):
        training_batches(bert, tokenizer, Split((split.read(0, 100),), 1, 1))


def test_a_tokenizer_without_a_mask_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(UserError, match=r"model\.causal=False.*\[MASK\].*data\.tokenizer.*wordpiece"):
        Masking.of(train_sentencepiece(iter(TEXTS), 440), whole_words=False)
