"""A BERT by its commands: pre-trained by filling masks, stopped and gone on with, measured, fine-tuned."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_support import Runner, assert_same_end, read_metrics

import gpt1_jax

STEPS = 12
BERT: dict[str, Any] = {
    "model.causal": False,
    "model.token_types": 2,
    "model.embedding_norm": True,
    "data.tokenizer": "wordpiece",
    "data.vocab_size": 60,
    "train.eval_every": 6,
    "train.checkpoint_every": 6,
    "train.num_steps": STEPS,
}


@pytest.fixture(scope="module")
def filling(runner: Runner) -> Path:
    workdir = runner.directory / "filling"
    runner.run(workdir, **BERT)
    return workdir


def test_the_results_are_of_the_hidden_pieces(filling: Path) -> None:
    """Bits a byte would be those of a text, to which the hidden pieces do not add up."""
    results = json.loads((filling / "results.json").read_text())
    assert (results["kind"], results["step"]) == ("pretrain", STEPS)
    assert results["validation"].keys() == {"loss", "perplexity"}
    held_out = [entry["loss"] for entry in read_metrics(filling) if entry["kind"] == "eval"]
    assert len(held_out) == 2 and held_out[1] < held_out[0]


def test_a_run_that_goes_on_ends_bit_equal(runner: Runner, filling: Path) -> None:
    workdir = runner.directory / "filling-again"
    runner.run(workdir, **BERT | {"train.num_steps": 6})
    assert "resuming at step 6" in runner.run(workdir, **BERT)
    assert_same_end(workdir, filling, STEPS)


def test_evaluate_measures_the_hidden_pieces_of_any_text(
    runner: Runner, filling: Path, tmp_path: Path
) -> None:
    text = "the old song finds a river. " * 40
    (tmp_path / "other.txt").write_text(text)
    flags = [f"--workdir={filling}", f"--source=text:{tmp_path}/other.txt"]
    found, again = (runner.call("evaluate", *flags) for _ in range(2))
    assert found.code == 0, found.stderr
    scores = json.loads(found.stdout)
    assert scores.keys() == {"step", "loss", "perplexity", "tokens", "bytes"} and scores["bytes"] == len(text)
    ids = gpt1_jax.load(filling).encode(text)
    assert 0.1 < scores["tokens"] / len(ids) < 0.2 and found.stdout == again.stdout


def test_blanks_are_filled(filling: Path) -> None:
    ((best, *_),) = gpt1_jax.load(filling).fill("the old [MASK] finds", 3)
    assert 0 < best["probability"] < 1 and best["text"]
