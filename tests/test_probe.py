"""The benchmark that probes layers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interop_support import MODELS, make_run, sentencepiece

import gpt1_jax
from benchmarks.probe import draw, probe, read_words
from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from gpt1_jax.tasks.task import Example

pytestmark = pytest.mark.usefixtures("quick_compilation")

EXAMPLES = [Example(("lazy", "foxes"), (1, 2)), Example(("fox",) * 40, (0,) * 40), Example(("dog",), None)]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lazy", "fox", "##es"]


def test_a_word_is_read_at_its_last_piece(tmp_path: Path) -> None:
    make_run(tmp_path / "run", sentencepiece())
    run = gpt1_jax.load(tmp_path / "run")
    states, tags = read_words(run, EXAMPLES)
    first = len(run.encode("lazy"))
    assert len(states) == 3
    for layer, found in enumerate(states):
        np.testing.assert_array_equal(found, run.states("lazy foxes", layer)[[first - 1, -1]])
    # What is longer than the context, or has no tags, is left out.
    assert tags.tolist() == [1, 2]


def test_a_model_that_reads_both_ways_reads_a_word_at_its_first_piece(tmp_path: Path) -> None:
    tokenizer = HuggingFaceTokenizer({"vocab.txt": "\n".join(PIECES).encode()})
    make_run(tmp_path / "run", tokenizer, **MODELS["bert"])
    run = gpt1_jax.load(tmp_path / "run")
    states, _ = read_words(run, EXAMPLES)
    np.testing.assert_array_equal(states[-1], run.states("lazy foxes")[[1, 2]])


def test_a_probe_finds_what_lies_on_a_line_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    tags = (generator.random(600) < 0.1).astype(int)
    states = generator.normal(size=(600, 8))
    assert probe(states[:300], tags[:300], states[300:], tags[300:]) == pytest.approx(0.5, abs=0.15)
    states[:, 3] += 100 * tags
    assert probe(states[:300], tags[:300], states[300:], tags[300:]) == 1


def test_the_curve_has_a_point_a_layer() -> None:
    axes: Any = draw([0.5, 0.75, 0.7], 1 / 3).axes[0]
    curve, guess = axes.get_lines()
    assert curve.get_xydata().tolist() == [[0, 0.5], [1, 0.75], [2, 0.7]]
    assert set(guess.get_ydata()) == {1 / 3}
