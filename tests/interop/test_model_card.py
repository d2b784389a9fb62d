"""The card of an exported model: read by Hugging Face's own library, filled from the run, without guesses."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from interop_support import MODELS, bpe, make_run, sentencepiece

from gpt1_jax.interop.conversion import convert
from gpt1_jax.run import Run
from gpt1_jax.tasks.task import Task
from gpt1_jax.training import ledger

pytestmark = pytest.mark.usefixtures("quick_compilation")

GENRES = Task("custom", "classification", ("accuracy",), labels=("bad", "good"))


def export(
    tmp_path: Path, task: Task | None = None, evaluation: dict[str, Any] | None = None, **values: Any
) -> str:
    """Returns the card of a run after 7 steps, with a line of its log for an evaluation."""
    directory = tmp_path / "run"
    make_run(directory, sentencepiece(), task, **values)
    if evaluation is not None:
        lines = [{"step": 6, "kind": "eval", "accuracy": 0.1}, {"step": 7, "kind": "eval", **evaluation}]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    convert("gpt1_jax", "huggingface", str(directory), str(tmp_path / "hub"))
    return (tmp_path / "hub" / "README.md").read_text()


def metadata(card: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the metadata; it is not installed")
    return yaml.safe_load(card.split("---\n")[1])


def test_it_says_what_a_pretrained_run_knows(tmp_path: Path) -> None:
    scores = {"loss": 4.5, "perplexity": 90.017, "bits_per_byte": 1.7}
    card = export(tmp_path, None, scores, **{"data.source": "demo", "train.batch_size": 4})
    found = metadata(card)
    assert (found["library_name"], found["pipeline_tag"]) == ("transformers", "text-generation")
    assert (
        found["tags"] == ["gpt1_jax", "openai-gpt"] and found["language"] == "en" and "license" not in found
    )
    metrics = found["model-index"][0]["results"][0]["metrics"]
    assert {metric["name"]: metric["value"] for metric in metrics} == scores
    assert "7 steps of 4 windows: 448 tokens seen" in card and "| perplexity | 90.02 |" in card
    assert "OpenAIGPTLMHeadModel.from_pretrained" in card
    sums = ledger.read(Run(str(tmp_path / "run")).directory)[7]
    assert sums and json.loads(card.split("```json\n")[1].split("```")[0]) == sums
    digest = hashlib.sha256((tmp_path / "hub" / "model.safetensors").read_bytes()).hexdigest()
    assert digest in card


def test_hugging_faces_own_library_reads_the_scores(tmp_path: Path) -> None:
    hub = pytest.importorskip(
        "huggingface_hub", reason="huggingface_hub is the reference; it is not installed"
    )
    export(tmp_path, GENRES, {"accuracy": 0.75, "f1": 0.5, "examples": 20})
    card = hub.ModelCard.load(tmp_path / "hub" / "README.md")
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {"accuracy": 0.75, "f1": 0.5}
    assert card.data.pipeline_tag == "text-classification" and card.data.license is None


def test_the_interval_of_the_exported_step_stands_beside_its_score(tmp_path: Path) -> None:
    make_run(tmp_path / "run", sentencepiece(), GENRES)
    run = Run(str(tmp_path / "run"))
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 7, "kind": "eval", "accuracy": 0.75}\n')
    results = {"step": 7, "validation": {"accuracy": 0.75}, "best": {"step": 7, "accuracy": 0.75}}
    run.write_results(results | {"predictions": {"step": 7, "accuracy": 0.75, "interval": [0.5, 0.9]}})
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "hub"))
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "95 % of resampled examples give a value of accuracy from 0.5 to 0.9" in card
    assert "started from: runs/begun" in card and "OpenAIGPTForSequenceClassification reads" in card


def test_what_the_run_does_not_know_is_left_out(tmp_path: Path) -> None:
    card = export(tmp_path, **MODELS["bert"] | {"data.source": "text:books/*.txt"})
    found = metadata(card)
    assert found["pipeline_tag"] == "fill-mask" and not {"language", "license", "model-index"} & found.keys()
    assert "No evaluation of this step is recorded" in card


def test_a_model_of_unknown_origin_has_a_card_without_a_past(tmp_path: Path) -> None:
    make_run(tmp_path / "run", bpe())
    convert("gpt1_jax", "openai", str(tmp_path / "run"), str(tmp_path / "openai"))
    convert("openai", "huggingface", str(tmp_path / "openai"), str(tmp_path / "hub"), num_heads=4)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "is not known to gpt1_jax" in card and "## Training" not in card and "## Scores" not in card
