"""LAMBADA's scores equal those computed word by word from whole logits."""

import math
from pathlib import Path

import numpy as np
import pytest
from run_support import save_run
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from support import tiny_config
from vocabulary_support import golden

import gpt1_jax
from gpt1_jax.data.tokenizers.library_training import train_byte_bpe
from gpt1_jax.errors import UserError
from gpt1_jax.usage.measuring import Prompting, zero_shot


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [row["text"].replace("\n", " ") for row in golden() if row["text"].count(" ") > 3][:40]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    base = tmp_path_factory.mktemp("lambada")
    (base / "set").mkdir()
    (base / "set" / "lambada_test_plain_text.txt").write_text("\n".join(texts) + "\n")
    tokenizer = train_byte_bpe(iter(texts), 700)
    config = tiny_config(**{"data.vocab_size": 700, "data.tokenizer": "byte_bpe", "model.norm": "pre"})
    save_run(base / "run", config, tokenizer, None)
    return base


def test_the_scores_are_those_of_whole_logits(
    directory: Path, texts: list[str], quick_compilation: None
) -> None:
    found = zero_shot(str(directory / "run"), "lambada", f"files:{directory / 'set'}", None)
    run = gpt1_jax.load(directory / "run")
    stop = [ids[0] for word in ENGLISH_STOP_WORDS if len(ids := run.encode(f" {word}")) == 1]
    assert len(stop) > 10
    rows, length = [], run.config.model.context_length
    for text in texts:
        before, _, word = text.strip().rpartition(" ")
        wanted = run.encode(f" {word}")
        ids = [run.tokenizer.end_id, *run.encode(before.rstrip()), *wanted][-length:]
        logits = run.logits(ids)[-len(wanted) - 1 : -1].astype(np.float64)
        chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        right = logits.argmax(-1) == wanted
        filtered = logits.copy()
        filtered[0, stop] = -np.inf
        rows.append(
            (
                chances[np.arange(len(wanted)), wanted].sum(),
                right.all(),
                (filtered.argmax(-1) == wanted).all(),
            )
        )
    chances, right, filtered = np.array(rows, float).T
    assert found["examples"] == len(texts)
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["accuracy_without_stop_words"] == pytest.approx(filtered.mean())
    assert found["perplexity"] == pytest.approx(math.exp(-chances.mean()), rel=1e-4)


def test_what_is_no_lambada_is_told(directory: Path, tmp_path: Path) -> None:
    run = str(directory / "run")
    with pytest.raises(UserError, match=r"lambada_test_plain_text\.txt nor lambada_test\.jsonl"):
        zero_shot(run, "lambada", f"files:{tmp_path}", None)
    (tmp_path / "lambada_test.jsonl").write_text('{"text": "alone"}\n')
    with pytest.raises(UserError, match="Passage 1 of lambada"):
        zero_shot(run, "lambada", f"files:{tmp_path}", None)
    with pytest.raises(UserError, match="leave out --prompt_template and --shots"):
        zero_shot(run, "lambada", f"files:{directory / 'set'}", None, Prompting(shots=1))
