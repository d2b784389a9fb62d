"""A model that went through another program's format and came back, used as a user uses any run."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_support import SMALL, Runner, read_metrics

SIZES = {key: value for key, value in SMALL.items() if key.startswith("model.")}
FEW = {"train.num_steps": 3, "train.eval_batches": 1}


def convert(runner: Runner, source_format: str, target_format: str, source: Path, target: Path) -> str:
    flags = [f"--from={source_format}", f"--to={target_format}"]
    done = runner.call("convert", *flags, str(source), str(target))
    assert done.code == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pretrained(runner: Runner) -> Path:
    workdir = runner.directory / "to_be_converted"
    runner.run(workdir, **{"train.num_steps": 20})
    return workdir


@pytest.fixture(scope="module")
def converted(runner: Runner, pretrained: Path) -> Path:
    """Returns a run that went through transformers' layout and back."""
    hub, workdir = runner.directory / "hub", runner.directory / "converted"
    convert(runner, "gpt1_jax", "huggingface", pretrained, hub)
    convert(runner, "huggingface", "gpt1_jax", hub, workdir)
    return workdir


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reviews")
    lines = [json.dumps({"text": "the old song"[: 4 + i % 9], "label": ("a", "b")[i % 2]}) for i in range(12)]
    for name in ("train", "validation"):
        (directory / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return directory


def finetune(runner: Runner, reviews: Path, start: Path, workdir: Path, **overrides: Any) -> Any:
    values = {
        "init_from": start,
        "data.source": f"files:{reviews}",
        "data.cache_dir": runner.directory / "cache",
        "finetune.kind": "classification",
        "train.num_epochs": 1,
        "train.batch_size": 4,
        "train.log_every": 1,
    } | overrides
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    return runner.call("main", "--config=configs/finetune.py:custom", f"--workdir={workdir}", *flags)


def losses(workdir: Path) -> list[float]:
    return [entry["loss"] for entry in read_metrics(workdir) if entry["kind"] == "train"]


def test_pre_training_goes_on_from_it_as_from_the_run_itself(
    runner: Runner, pretrained: Path, converted: Path, tmp_path: Path
) -> None:
    for name, start in (("one", pretrained), ("other", converted)):
        runner.run(tmp_path / name, **FEW, init_from=start)
    assert losses(tmp_path / "one") == losses(tmp_path / "other")
    assert len(losses(tmp_path / "other")) == 3


def test_fine_tuning_starts_from_it_and_exports(
    runner: Runner, converted: Path, reviews: Path, tmp_path: Path
) -> None:
    done = finetune(runner, reviews, converted, tmp_path / "run")
    assert done.code == 0, done.stderr
    assert len(losses(tmp_path / "run")) == 3
    said = convert(runner, "gpt1_jax", "openai", tmp_path / "run", tmp_path / "published")
    assert "The head of task custom is left out" in said and "--num_heads=2" in said


@pytest.mark.slow
def test_evaluate_measures_it_on_a_text(runner: Runner, pretrained: Path, converted: Path) -> None:
    found = []
    for workdir in (pretrained, converted):
        done = runner.call("evaluate", f"--workdir={workdir}", f"--source={runner.source}")
        assert done.code == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[1] == found[0] | {"step": 0, "loss": pytest.approx(found[0]["loss"], rel=1e-6)} | {
        name: pytest.approx(found[0][name], rel=1e-6) for name in ("perplexity", "bits_per_byte")
    }


def test_it_has_no_text_of_its_own(runner: Runner, converted: Path) -> None:
    done = runner.call("evaluate", f"--workdir={converted}")
    assert done.code == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "converted from huggingface" in done.stderr and "text:GLOB" in done.stderr


@pytest.mark.slow
def test_it_is_not_gone_on_with_in_place(
    runner: Runner, pretrained: Path, converted: Path, reviews: Path
) -> None:
    """It has no optimizer state: training begins in a directory of its own."""
    paper = {"seed": 0, "train.batch_size": 64, "data.tokenizer": "sentencepiece"}
    said = runner.run(converted, expect=2, **SIZES, **paper)
    assert "data.source=converted from huggingface" in said and "--workdir" in said and said.count("\n") == 1
    said = runner.run(converted, expect=2, **SIZES, **paper, **{"data.source": "converted from huggingface"})
    assert "converted from huggingface" in said and said.count("\n") == 1
    done = finetune(runner, reviews, pretrained, converted)
    assert done.code == 2 and "--workdir" in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in (converted / "checkpoints").iterdir()] == ["0"]


@pytest.mark.slow
def test_without_a_tokenizer_training_refuses_text(
    runner: Runner, converted: Path, reviews: Path, tmp_path: Path
) -> None:
    """This is the layout that transformers' save_pretrained writes."""
    hub = tmp_path / "hub"
    convert(runner, "gpt1_jax", "huggingface", converted, hub)
    for name in ("sentencepiece.model", "tokenizer.json"):
        (hub / name).unlink()
    assert "has no tokenizer" in convert(runner, "huggingface", "gpt1_jax", hub, tmp_path / "mute")
    done = finetune(runner, reviews, tmp_path / "mute", tmp_path / "run")
    assert done.code == 2 and "--tokenizer=openai:DIR" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    said = runner.run(tmp_path / "run", expect=2, init_from=tmp_path / "mute")
    assert "--tokenizer=openai:DIR" in said and "Traceback" not in said
