"""The text of new tokens, whole and as it grows, with tokenizers of Hugging Face's library."""

from itertools import pairwise

import numpy as np
import pytest
from vocabulary_support import golden

from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from gpt1_jax.data.tokenizers.library_training import train_byte_bpe, train_wordpiece
from gpt1_jax.usage.continuation import Prompt, growing_text, sample_text

PARTS = ["né", "😀", " 漢字", "the", " dog", "\ufffd", ".", "'s", "\n"]


@pytest.fixture(scope="module", params=[train_byte_bpe, train_wordpiece])
def tokenizer(request: pytest.FixtureRequest) -> HuggingFaceTokenizer:
    return request.param(iter(["\n".join(row["text"] for row in golden())]), 700)


def test_what_grows_is_always_the_beginning_of_what_comes(tokenizer: HuggingFaceTokenizer) -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        ids = tokenizer.encode("".join(generator.choice(PARTS, 8)))
        # Some ids are drawn, so that characters break off.
        ids = [int(generator.integers(700)) if generator.random() < 0.1 else id for id in ids]
        begun, ids = ids[: len(ids) // 2], ids[len(ids) // 2 :]
        prompt = Prompt(tokenizer.decode(begun), begun)
        shown = [growing_text(tokenizer, prompt, ids[:count], ()) for count in range(len(ids) + 1)]
        final = sample_text(tokenizer, prompt, ids, ())
        assert [(final.startswith(text), text[-1:] != "\ufffd") for text in shown] == [(True, True)] * len(
            shown
        )
        assert [b.startswith(a) for a, b in pairwise(shown)] == [True] * len(ids)


def test_a_character_that_a_prompt_begins_is_finished() -> None:
    tokenizer = train_byte_bpe(iter(["a b c d"]), 262)
    ids = tokenizer.encode("naïve")
    for cut in range(1, len(ids)):
        prompt = Prompt("", ids[:cut])
        text = sample_text(tokenizer, prompt, ids[cut:], ())
        assert "naïve".endswith(text) and text
