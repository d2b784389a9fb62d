"""Where a text stands among tokens: every place of it, wherever the tokens are cut for decoding."""

from typing import Any

import numpy as np
import pytest
from interop_support import TEXT, sentencepiece

from gpt1_jax.data import left_out
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.left_out import walk_documents
from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.data.visits import documents_in, find_text


class Tokens:
    """A split that is held in memory."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = np.array(ids, np.int32)

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._ids[start:stop]


def find(tokenizer: Tokenizer, ids: list[int], text: str) -> list[tuple[int, int]]:
    split: Any = Tokens(ids)
    return [*find_text(split, tokenizer, text)]


@pytest.mark.parametrize("text", ["fox", " lazy dog", " ", "é", "é 日", "日本"])
def test_every_place_of_a_text_is_found_however_it_lies_to_what_is_decoded_at_once(text: str) -> None:
    tokenizer = sentencepiece()
    body = f"{TEXT} café 日本 " * 80
    ids = tokenizer.encode(body)
    assert len(ids) > 3 * 1024
    found = find(tokenizer, ids, text)
    assert len(found) == tokenizer.decode(ids).count(text) > 50
    assert all(text in " " + tokenizer.decode(ids[first:last]) for first, last in found)
    assert found == sorted(found)


def test_a_text_of_which_the_tokenizer_keeps_nothing_is_nowhere() -> None:
    tokenizer = HuggingFaceTokenizer({"vocab.txt": b"[UNK]\nthe\nlazy\ndog\n"})
    assert find(tokenizer, tokenizer.encode("the lazy dog"), " ") == []


def test_documents_of_windows_are_found_without_walking_through_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = np.random.default_rng(0)
    for _ in range(300):
        monkeypatch.setattr(left_out, "_CHUNK", int(draw.choice([3, 7, 50, 1000])))
        tokens = (draw.random(draw.integers(5, 400)) > 0.2).astype(np.uint16)
        tokens[[0, -1]] = 0
        split = Split((tokens,), int(np.count_nonzero(tokens == 0)) - 1, len(tokens))
        starts = draw.integers(0, len(tokens) - 1, draw.integers(1, 5))
        windows = np.stack([starts, np.minimum(starts + draw.integers(1, 30, len(starts)), len(tokens))], 1)
        everything = [*walk_documents(split, 0)]
        assert documents_in(split, 0, windows) == [
            [document for document in everything if start < document.stop and document.start < stop]
            for start, stop in windows.tolist()
        ]
