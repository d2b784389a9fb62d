"""Models to compare with: proper distributions, equal to the formulas written out, over the held-out text."""

import json
import math
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver
from data_support import data_config

from benchmarks import held_out
from benchmarks.held_out import KneserNey, make_windows, measure_xz, unigram_probabilities, xz_size
from gpt1_jax.data.corpus import prepare
from gpt1_jax.data.sources import open_source
from gpt1_jax.errors import UserError

ROOT = Path(__file__).parents[1]


class SlowKneserNey:
    """Computes the formulas of Chen and Goodman with dictionaries, one n-gram at a time."""

    def __init__(self, tokens: list[int], vocab_size: int, order: int) -> None:
        self.vocab_size = vocab_size
        self.counts = {order: Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))}
        for n in range(order - 1, 0, -1):
            self.counts[n] = Counter(gram[1:] for gram in self.counts[n + 1])

    def probability(self, context: tuple[int, ...], word: int) -> float:
        n = len(context) + 1
        lower = self.probability(context[1:], word) if context else 1 / self.vocab_size
        followers = [count for gram, count in self.counts[n].items() if gram[:-1] == context]
        if not followers:
            return lower
        all_counts = list(self.counts[n].values())
        ones, twos = all_counts.count(1), all_counts.count(2)
        discount = ones / (ones + 2 * twos) if ones else 0.5
        kept = max(self.counts[n][(*context, word)] - discount, 0)
        return kept / sum(followers) + discount * len(followers) / sum(followers) * lower


def all_windows(vocab_size: int, order: int) -> np.ndarray:
    """Returns every word after every context, also those that reach before the stream: [C · V, order]."""
    contexts = product(range(vocab_size + 1), repeat=order - 1)
    return np.array([(*context, word) for context in contexts for word in range(vocab_size)], np.int32)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_kneser_ney_is_the_formula(seed: int, order: int) -> None:
    vocab_size = 6
    tokens = np.random.default_rng(seed).zipf(1.5, 60).clip(1, vocab_size - 1).astype(np.int32)
    windows = all_windows(vocab_size, order)
    found = KneserNey(tokens, vocab_size, order).probabilities(windows)
    slow = SlowKneserNey(tokens.tolist(), vocab_size, order)
    expected = [slow.probability(tuple(context), word) for *context, word in windows.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "tokens",
    [
        [0, 1, 2, 0, 1, 3, 0, 1, 2, 2, 4, 0, 1],
        [0, 1, 2, 3, 4, 3, 1],  # each trigram once: D = 1, all is left to the lower orders
        [0, 1, 0, 1, 0, 1, 0, 1, 0],  # none once: D = ½
        [2, 2, 2],
    ],
)
def test_kneser_ney_sums_to_one_after_seen_and_unseen_contexts(tokens: list[int]) -> None:
    vocab_size = 5
    model = KneserNey(np.array(tokens, np.int32), vocab_size, 3)
    probabilities = model.probabilities(all_windows(vocab_size, 3)).reshape(-1, vocab_size)
    assert probabilities.min() > 0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)


def test_kneser_ney_packs_a_large_vocabulary() -> None:
    vocab_size = 2_000_000
    tokens = np.array([1_999_999, 1_999_998, 0, 1_999_999, 1_999_998, 0, 7], np.int32)
    windows = make_windows(tokens, 3, vocab_size)
    slow = SlowKneserNey(tokens.tolist(), vocab_size, 3)
    expected = [slow.probability(tuple(context), word) for *context, word in windows.tolist()]
    np.testing.assert_allclose(KneserNey(tokens, vocab_size, 3).probabilities(windows), expected, rtol=1e-12)


def test_each_token_but_the_first_is_predicted_once() -> None:
    windows = make_windows(np.array([1, 5, 2, 3], np.int32), 3, 9)
    assert windows.tolist() == [[9, 1, 5], [1, 5, 2], [5, 2, 3]]


def test_the_unigram_adds_one() -> None:
    found = unigram_probabilities(np.array([0, 2, 2, 1], np.int32), 4)
    np.testing.assert_allclose(found, [2 / 8, 2 / 8, 3 / 8, 1 / 8])


def test_xz_is_given_the_training_text(tmp_path: Path) -> None:
    text, other = (np.random.default_rng(seed).bytes(2000).hex() for seed in range(2))
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text(other)
    (tmp_path / "c.txt").write_text(text)  # held out
    bits = measure_xz(open_source(f"text:{tmp_path}/*.txt"))
    assert bits["xz -9, held-out text alone"] == 8 * xz_size(text.encode() + b"\0")
    assert bits["xz -9, each document alone"] == bits["xz -9, held-out text alone"]
    assert 0 < bits["xz -9, given the training text"] < 0.05 * bits["xz -9, held-out text alone"]


def write_texts(directory: Path) -> str:
    """Writes 25 little documents, of which the 20th is held out, and returns the source they are."""
    for i in range(25):
        words = f"Document {i} has a few lines,\n  like the others ü\n" * (i + 1)
        (directory / f"{i:02}.txt").write_text(words, encoding="utf-8")
    return f"text:{directory}/*.txt"


def run_benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.held_out", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_table_is_over_the_held_out_tokens_and_bytes(tmp_path: Path) -> None:
    source, cache = write_texts(tmp_path), str(tmp_path / "cache")
    done = run_benchmark(f"--source={source}", "--vocab_size=320", f"--cache_dir={cache}")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    rows = facts["bits_per_byte"]
    for name, value in rows.items():
        assert f"{name:40}  {value:13.3f}" in done.stdout

    corpus = prepare(data_config(source, cache, split_seed=0), progress=lambda line: None)
    assert facts["corpus"] == corpus.fingerprint
    train, validation = (split.read(0, len(split)) for split in (corpus.train, corpus.validation))
    counts = Counter(train.tolist())
    unigram = [(counts[token] + 1) / (len(train) + 320) for token in validation[1:].tolist()]
    slow = SlowKneserNey(train.tolist(), 320, 3)
    contexts = [tuple(validation[max(i - 2, 0) : i].tolist()) for i in range(1, len(validation))]
    trigram = [slow.probability(*pair) for pair in zip(contexts, validation[1:].tolist(), strict=True)]
    for name, probabilities in [
        ("unigram of tokens, add-one", unigram),
        ("trigram of tokens, Kneser-Ney", trigram),
    ]:
        bits = -sum(map(math.log2, probabilities))
        assert rows[name] == pytest.approx(bits / corpus.validation.bytes)


def test_a_wrong_source_is_told_in_a_sentence() -> None:
    done = run_benchmark("--source=nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: data.source='nowhere'")
    assert len(done.stderr.splitlines()) == 1


def test_too_much_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "_MAX_BYTES", 1000)
    cache = str(tmp_path / "cache")
    with (
        flagsaver.as_parsed(source=write_texts(tmp_path), vocab_size="320", cache_dir=cache),
        pytest.raises(UserError, match=r"--source=.* bytes of text, more than the 1,000"),
    ):
        held_out.main([])
