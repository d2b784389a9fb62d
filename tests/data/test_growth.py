"""A corpus of a terabyte opens as fast as a small one, and takes no more memory; nothing of it is read in advance."""

import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_support import prepare
from support import tiny_config

from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.batches import PretrainingBatches
from gpt1_jax.data.corpus import Corpus
from gpt1_jax.data.manifest import fingerprint, read_manifest, write_manifest
from gpt1_jax.data.text_batches import training_batches

TERABYTE = 10**12


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    place = tmp_path_factory.mktemp("small")
    (place / "text.txt").write_text("the fox and the dog go over the hill\n" * 400)
    return prepare(f"text:{place}/text.txt", "sentencepiece", 290, place / "cache")


@pytest.fixture(scope="module")
def large(small: Corpus) -> Path:
    """The directory of a corpus whose last training shard is a hole of a terabyte, in which all tokens are 0."""
    manifest = read_manifest(small.directory)
    with (small.directory / "train-99999.bin").open("wb") as file:
        try:
            file.truncate(TERABYTE)
        except OSError as error:
            pytest.skip(f"this disk has no file of a terabyte ({error.strerror})")
    train = manifest["splits"]["train"]
    train["shards"].append({"file": "train-99999.bin", "bytes": TERABYTE, "crc32": 0})
    train["tokens"] += TERABYTE // 2
    manifest["fingerprint"] = fingerprint(small.tokenizer, manifest["splits"])
    del manifest["seal"]
    write_manifest(small.directory, manifest)
    return small.directory


def test_a_terabyte_is_opened_and_drawn_from_at_once(small: Corpus, large: Path) -> None:
    config = tiny_config()
    data = replace(config.data, mask_documents=True)
    train = replace(config.train, batch_size=64)
    config = replace(config, data=data, train=train, model=replace(config.model, context_length=512))
    # What draws is imported when it is first needed.
    training_batches(tiny_config(), small.tokenizer, small.train).rows(0, 0, 1)
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    corpus = corpora.load(large)
    batches = training_batches(config, corpus.tokenizer, corpus.train)
    last = batches.examples_per_epoch // config.train.batch_size
    for step in (*range(3), *np.random.default_rng(0).integers(0, last, 50).tolist(), last, 5 * last):
        batches.rows(step, 0, config.train.batch_size)
    # If the kernel read around each window, this would take 7 seconds; if it looked for damage, many minutes.
    assert time.process_time() - began < 2
    # In kilobytes. A permutation that was stored would take 8 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_an_epoch_of_a_terabyte_meets_places_all_over_it(large: Path) -> None:
    corpus: Corpus = corpora.load(large)
    config = tiny_config()
    batches = training_batches(config, corpus.tokenizer, corpus.train)
    assert isinstance(batches, PretrainingBatches)
    size = config.train.batch_size
    starts = np.concatenate([batches.starts(step, 0, size) for step in range(2000 // size)])
    assert len(set(starts.tolist())) == len(starts)
    found, _ = np.histogram(starts / len(corpus.train), 4, (0, 1))
    assert (found > len(starts) / 5).all()
