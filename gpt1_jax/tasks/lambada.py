"""LAMBADA: the last word of a passage, which can be guessed from the whole passage but not from its last sentence.

GPT-2's paper tells the accuracy, the accuracy with a stop-word filter, and the perplexity of the last word.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpt1_jax.config import DataConfig
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.disk.inputs import decode
from gpt1_jax.disk.paths import expand_local
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.rows import read_jsonl, read_text
from gpt1_jax.tasks.tfds_sets import open_set

NAME = "lambada"
# The official test file, and the one that OpenAI published with its own line breaks and quotes.
_PLAIN, _JSONL = "lambada_test_plain_text.txt", "lambada_test.jsonl"


def read_passages(data: DataConfig) -> list[tuple[str, str]]:
    """Reads the test part of the set that `data.source` names: `tfds` or `files:DIR`.

    Returns:
        The text before the last word, and a space and the last word, of each passage.

    Raises:
        UserError: the source has no such set, or a passage has fewer than two words.
    """
    kind, _, path = data.source.partition(":")
    if data.source == "tfds":
        passages = _read_tfds(data.tfds_dir)
    elif kind == "files" and path:
        passages = _read_files(expand_local(path, "data.source"))
    else:
        raise UserError(f"data.source={data.source!r} has no {NAME}; set tfds or files:DIR.")
    found = []
    for number, passage in enumerate(passages, start=1):
        before, _, word = passage.strip().rpartition(" ")
        if not before or not word:
            raise UserError(
                f"Passage {number} of {NAME} in {data.source}, {passage[:60]!r}, has no last word behind a space; "
                "restore the set's file."
            )
        found.append((before.rstrip(), f" {word}"))
    if not found:
        raise UserError(f"data.source={data.source!r} has no passage of {NAME}; restore the set's file.")
    return found


def _read_files(directory: Path) -> Iterator[str]:
    if (directory / _PLAIN).exists():
        yield from filter(str.strip, read_text(directory / _PLAIN).split("\n"))
    elif (directory / _JSONL).exists():
        for number, row in enumerate(read_jsonl(directory / _JSONL), start=1):
            text = row.fields.get("text")
            if not isinstance(text, str):
                raise UserError(f"Line {number} of {directory / _JSONL} has no field 'text'; restore it.")
            yield text
    else:
        raise UserError(f"data.source='files:{directory}' has neither {_PLAIN} nor {_JSONL}; add one.")


def _read_tfds(tfds_dir: str | None) -> Iterator[str]:
    builder = open_set(NAME, (), tfds_dir)
    for number, row in enumerate(builder.as_data_source("test")):
        text = row["passage"]
        yield text if isinstance(text, str) else decode(text, f"data.source: passage {number} of tfds")


def stop_pieces(tokenizer: Tokenizer) -> np.ndarray:
    """Returns whether each piece alone is a stop word of English with a space before it, bool [V].

    The paper does not give its list; this one is scikit-learn's: 318 words of Glasgow's Information Retrieval
    Group.
    """
    found = np.zeros(tokenizer.vocab_size, bool)
    # Imported late: few commands need it, and it takes a second.
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    words = sorted(ENGLISH_STOP_WORDS)
    for ids in tokenizer.encode_batch([f" {word}" for word in words], threads=1):
        if len(ids) == 1:
            found[ids[0]] = True
    return found
