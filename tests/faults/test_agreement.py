"""`predict`, Python and `evaluate` say one thing of the same examples, for each kind of task."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from faults.commands import Commands
from run_support import WORDS, save_run
from support import tiny_config

import gpt1_jax
from gpt1_jax.data.tokenizers.sentencepiece import train_sentencepiece
from gpt1_jax.tasks.reading import read_task

FIELDS = {
    "classification": ("text",),
    "entailment": ("premise", "hypothesis"),
    "similarity": ("sentence1", "sentence2"),
    "choice": ("context", "question"),
}


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as commands:
        yield commands


def make_rows(kind: str, labels: list[Any], count: int) -> list[dict[str, Any]]:
    draw = random.Random(0)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(0, 4)))

    rows = []
    for _ in range(count):
        row = {name: text() for name in FIELDS[kind]} | {"label": draw.choice(labels)}
        rows.append(row | ({"choices": [text(), text()]} if kind == "choice" else {}))
    return rows


@pytest.mark.parametrize(
    ("kind", "scores", "labels"),
    [
        ("similarity", "regression", [-50.0, 0.5, 50.0]),
        pytest.param("classification", "classes", ["bad", "good", "so so"], marks=pytest.mark.slow),
        pytest.param("similarity", "classes", [0.0, 1.5, 2.0, 4.0], marks=pytest.mark.slow),
        pytest.param("entailment", "classes", ["no", "yes"], marks=pytest.mark.slow),
        pytest.param("choice", "classes", [0, 1], marks=pytest.mark.slow),
    ],
    ids=["regression", "classes", "scores", "pairs", "choices"],
)
def test_files_python_and_metrics_agree(
    commands: Commands, tmp_path: Path, kind: str, scores: str, labels: list[Any]
) -> None:
    rows = make_rows(kind, labels, 80)
    data = tmp_path / "data"
    data.mkdir()
    for name, part in (("train", rows[:40]), ("validation", rows[40:])):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    config = tiny_config(
        **{
            "finetune.task": "custom",
            "finetune.kind": kind,
            "finetune.scores": scores,
            "model.context_length": 48,
            "data.source": f"files:{data}",
            "data.cache_dir": str(tmp_path / "cache"),
        }
    )
    assert config.finetune is not None
    task = read_task(config.finetune, config.data).task
    tokenizer = train_sentencepiece(iter([" ".join(WORDS * 20) + "\n"]), 300)
    run = save_run(tmp_path / "run", config, tokenizer, task)

    # The records have no label, and no split: nothing but their texts.
    records = [{name: value for name, value in row.items() if name != "label"} for row in rows[40:]]
    given, written = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text("".join(json.dumps(record) + "\n" for record in records))
    flags = (f"--workdir={run}", f"--input={given}", f"--output={written}")
    assert commands.run("predict", *flags).code == 0
    ended = commands.run("evaluate", f"--workdir={run}")
    assert ended.code == 0, ended.stderr
    measured = json.loads(ended.stdout)
    found = [json.loads(line) for line in written.read_text().splitlines()]

    for entry, other in zip(found, gpt1_jax.load(run).predict(records), strict=True):
        assert entry.keys() == other.keys()
        assert entry["label"] == (
            pytest.approx(other["label"], abs=1e-4) if task.score_range else other["label"]
        )
    assert len({json.dumps(entry) for entry in found}) > 20
    answers, truth = [entry["label"] for entry in found], [row["label"] for row in rows[40:]]
    assert measured["examples"] == len(answers) == 40
    if task.score_range:
        low, high = task.score_range
        assert all(low <= answer <= high for answer in answers)
        assert measured["pearson"] == pytest.approx(scipy.stats.pearsonr(answers, truth).statistic, abs=1e-3)
    else:
        assert measured["accuracy"] == sum(a == b for a, b in zip(answers, truth, strict=True)) / 40
