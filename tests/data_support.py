"""What tests that tokenize share."""

from collections.abc import Callable
from pathlib import Path

from gpt1_jax.config import DataConfig
from gpt1_jax.data import corpus
from gpt1_jax.data.corpus import Corpus
from gpt1_jax.data.tokenizers.opening import Tokenizer


def data_config(source: str, cache: Path | str, **others: object) -> DataConfig:
    """A source with small pieces and what is held out by the rule of earlier runs, unless `others` say more."""
    settings = {"tokenizer": "sentencepiece", "vocab_size": 320, "tfds_dir": None, "split_seed": -1}
    return DataConfig(**settings | others | {"source": source, "cache_dir": str(cache)})  # pyright: ignore


def prepare(
    source: str,
    tokenizer: str | Tokenizer,
    vocab_size: int,
    cache: Path | str,
    progress: Callable[[str], None] | None = None,
) -> Corpus:
    """`corpus.prepare` of a source, with a tokenizer or what names one."""
    named = {"tokenizer": tokenizer} if isinstance(tokenizer, str) else {}
    data = data_config(source, cache, vocab_size=max(vocab_size, 1), **named)
    return corpus.prepare(data, None if named else tokenizer, progress)  # pyright: ignore
