"""Whether training ever waits for text: python -m benchmarks.data [--preset=tiny] [--source=text:GLOB].

It measures batches as training gets them, windows of a tokenized corpus placed on the device, beside the train step
that takes them. It also measures the tokenization of the source with one core and with all, and checks that both make
the same corpus. The corpora are made in a temporary directory. Rounds are interleaved, after one that warms up; the
figures are medians and ranges.
"""

import dataclasses
import itertools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from absl import flags

from benchmarks.ours import Training
from benchmarks.settings import find_preset
from benchmarks.timing import Row, conclude, measure
from gpt1_jax.config import Config, DataConfig, MeshConfig
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.batches import PretrainingBatches
from gpt1_jax.data.building import tokenize
from gpt1_jax.data.corpus import Corpus
from gpt1_jax.data.progress import Progress
from gpt1_jax.data.tokenizers.opening import Tokenizer, load_tokenizer
from gpt1_jax.data.workers import local_workers
from gpt1_jax.devices.mesh import make_mesh, place_rows
from gpt1_jax.door import door
from gpt1_jax.errors import Fault
from gpt1_jax.wording import counted

_PRESET = flags.DEFINE_string("preset", "", "a preset of configs/pretrain.py; by default the paper's")
_SOURCE = flags.DEFINE_string("source", "demo", "the text, as data.source of a config")
_TOKENIZER = flags.DEFINE_string("tokenizer", "sentencepiece", "as data.tokenizer of a config")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 0, "pieces trained; by default the preset's", 0)
_STEP_BATCH = flags.DEFINE_integer(
    "step_batch", 0, "rows of the train step; by default the preset's, and 2 of the paper's on a CPU", 0
)
_BATCHES = flags.DEFINE_integer("batches", 50, "batches delivered in a round", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "rounds of timing", 1)


def main(_: list[str]) -> None:
    """Prints a line for each side, then the same in JSON."""
    config = find_preset(_PRESET.value)
    with tempfile.TemporaryDirectory() as cache:
        vocab_size = _VOCAB_SIZE.value or config.data.vocab_size
        named = {"source": _SOURCE.value, "tokenizer": _TOKENIZER.value, "vocab_size": vocab_size}
        data = dataclasses.replace(config.data, cache_dir=cache, **named)
        corpus = corpora.prepare(data)
        text = {
            "documents": corpus.train.documents + corpus.validation.documents,
            "bytes": corpus.train.bytes + corpus.validation.bytes,
            "tokens": len(corpus.train) + len(corpus.validation),
        }
        print(f"{_SOURCE.value}: {text['bytes'] / 1e6:,.1f} MB, {counted(text['tokens'], 'token')}")
        rows = _measure_batches(config, corpus) + _measure_tokenization(corpus, data, text["bytes"] / 1e6)
    facts = [dataclasses.asdict(row) for row in rows]
    conclude(preset=_PRESET.value, source=_SOURCE.value, vocab_size=vocab_size, text=text, rows=facts)


# ── Batches ──────────────────────────────────────────────────────────────────────────────────────────────────


def _measure_batches(config: Config, corpus: Corpus) -> list[Row]:
    """Measures tokens a second: delivered at the preset's batch size, and taken by its train step."""
    on_cpu = jax.default_backend() == "cpu"
    mesh = make_mesh(MeshConfig(1, 1, 1))
    model = dataclasses.replace(config.model, dtype="float32" if on_cpu else config.model.dtype)
    step_batch = _STEP_BATCH.value or (2 if on_cpu and not _PRESET.value else config.train.batch_size)
    data = dataclasses.replace(config.data, vocab_size=corpus.tokenizer.vocab_size)
    train = dataclasses.replace(config.train, batch_size=step_batch)
    trainer = Training(dataclasses.replace(config, model=model, data=data, train=train))
    length, delivered = config.model.context_length, config.train.batch_size
    batches = PretrainingBatches(corpus.train, seed=0, batch_size=delivered, context_length=length)
    batch = PretrainingBatches(corpus.train, seed=0, batch_size=step_batch, context_length=length).rows(
        0, 0, step_batch
    )
    steps = itertools.count()

    def deliver() -> None:
        for step in itertools.islice(steps, _BATCHES.value):
            jax.block_until_ready(place_rows(lambda *rows, n=step: batches.rows(n, *rows), delivered, mesh))

    names = f"batches {delivered}×{length}", f"step {step_batch}×{length}"
    sides = dict(zip(names, (deliver, lambda: trainer(batch.tokens[:, 0], batch.targets[:, 0])), strict=True))
    work = dict(zip(names, (_BATCHES.value * delivered * length, step_batch * length), strict=True))
    rows = measure(sides, _ROUNDS.value, work, "tokens")
    for row in rows:
        print(row, flush=True)
    return rows


# ── Tokenization ─────────────────────────────────────────────────────────────────────────────────────────────


def _measure_tokenization(corpus: Corpus, data: DataConfig, megabytes: float) -> list[Row]:
    """Measures MB of text a second, with all cores and with one."""
    cores = os.cpu_count() or 1
    sides = {f"{n} core{'s' * (n > 1)}": _tokenization(corpus.tokenizer, data, n) for n in (cores, 1)}
    for name, side in sides.items():  # which warms up, too
        if side() != corpus.fingerprint:
            raise Fault(f"{name} made another corpus of the same text")
    rows = measure(sides, _ROUNDS.value, megabytes, "MB")
    tokens = len(corpus.train) + len(corpus.validation)
    for row in rows:
        print(f"{row}; {tokens / row.seconds.median:,.0f} tokens/s", flush=True)
    return rows


def _tokenization(tokenizer: Tokenizer, data: DataConfig, cores: int) -> Callable[[], str]:
    """Makes the corpus anew with a tokenizer that remembers no word yet, and returns its fingerprint."""
    kept = Path(data.cache_dir) / f"tokenizer-{cores}"
    tokenizer.save(kept)

    def workers(*arguments: Any) -> None:
        with mock.patch("os.cpu_count", return_value=cores):  # all that they ask about the machine
            local_workers(*arguments)

    def run() -> str:
        with tempfile.TemporaryDirectory(dir=data.cache_dir) as place:
            progress = Progress(lambda line: None)
            new = load_tokenizer(kept)
            made = tokenize(dataclasses.replace(data, cache_dir=place), new, progress, workers)
            return json.loads((made / "manifest.json").read_text())["fingerprint"]

    return run


if __name__ == "__main__":
    door(main)
