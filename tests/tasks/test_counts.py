"""No row vanishes: each reader gives as many examples, in their order, as predictions are written."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from configs.finetune import paper
from gpt1_jax.config import DataConfig, FinetuneConfig
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.official_files import read_official_files
from gpt1_jax.tasks.predictions import write_predictions
from gpt1_jax.tasks.reading import read_task
from gpt1_jax.tasks.task import Example, Task

# Empty, of nothing but spaces, with what ends a line somewhere, with quotation marks and separators.
TEXTS = ["a", "", " ", "x\u2028y", "\x0c", 'say "so"', "b, c", "d; e", "'", "#", "null", "a"]
LINES = ["in two\nlines", "\n", "\r\n"]  # which CSV and JSON can hold


def settings(source: str) -> tuple[FinetuneConfig, DataConfig]:
    config = paper("custom")
    assert config.finetune
    return replace(config.finetune, kind="classification"), replace(config.data, source=source)


def check(directory: Path, task: Task, examples: list[Example], texts: list[str]) -> None:
    """Every text is an example and has its line among the predictions."""
    assert [example.texts[0] for example in examples] == [text.strip() for text in texts]
    numbers = np.arange(len(texts)) % 2
    write_predictions(epath.Path(directory), "test", task, numbers, examples)
    with (directory / "test.tsv").open(newline="") as file:
        written = list(csv.DictReader(file, delimiter="\t"))
    assert [row["index"] for row in written] == list(map(str, range(len(texts))))
    assert [row["prediction"] for row in written] == [task.labels[number] for number in numbers]


def table(texts: list[str], dialect: type[csv.Dialect], labels: bool) -> str:
    file = io.StringIO()
    writer = csv.writer(file, dialect)
    writer.writerow(["text", "label"] if labels else ["text"])
    writer.writerows([text, "no" if n % 2 else "yes"] if labels else [text] for n, text in enumerate(texts))
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_of_the_users_own_files(tmp_path: Path, suffix: str) -> None:
    texts = TEXTS + LINES
    for split in ("train", "validation", "test"):
        if suffix == "csv":
            content = table(texts, csv.excel, split != "test")
        else:
            rows = [{"text": text, "label": "no" if n % 2 else "yes"} for n, text in enumerate(texts)]
            content = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.{suffix}").write_text(content, encoding="utf-8", newline="")
    data = read_task(*settings(f"files:{tmp_path}"))
    for examples in (data.train, data.validation, data.test):
        check(tmp_path, data.task, examples, texts)


def test_of_the_users_own_tsv(tmp_path: Path) -> None:
    texts = [text for text in TEXTS if text.strip() and '"' not in text]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.tsv").write_text(
            table(texts, csv.excel_tab, split != "test"), encoding="utf-8", newline=""
        )
    data = read_task(*settings(f"files:{tmp_path}"))
    for examples in (data.train, data.validation, data.test):
        check(tmp_path, data.task, examples, texts)


def test_of_official_tables_and_objects(tmp_path: Path) -> None:
    sentences = [text for text in TEXTS if text.strip()]
    (tmp_path / "test.tsv").write_text(
        "index\tsentence\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(sentences)), encoding="utf-8"
    )
    cola = Task("cola", "classification", ("accuracy",), labels=("0", "1"), columns={"text": "sentence"})
    check(tmp_path, cola, read_official_files(cola, tmp_path, "test"), sentences)
    pairs = [
        {"gold_label": "-" if n % 3 else "neutral", "sentence1": text, "sentence2": "b"}
        for n, text in enumerate(TEXTS + LINES)
    ]
    (tmp_path / "snli_1.0_test.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    columns = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}
    snli = Task("snli", "entailment", ("accuracy",), labels=("entailment", "neutral"), columns=columns)
    check(tmp_path, snli, read_official_files(snli, tmp_path, "test"), TEXTS + LINES)


def test_of_official_sets_of_choices(tmp_path: Path) -> None:
    columns = [f"InputSentence{n}" for n in (1, 2, 3, 4)]
    columns += [f"RandomFifthSentenceQuiz{n}" for n in (1, 2)]
    with (tmp_path / "cloze_test_test__spring2016.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["InputStoryid", *columns])
        rows.writerows([n, text, *"bcdxy"] for n, text in enumerate(TEXTS + LINES))
    assert len(read_official_files(find_task("story_cloze"), tmp_path, "test")) == len(TEXTS + LINES)
    for group, counts in {"middle": (1, 3), "high": (2, 4)}.items():
        for number, count in enumerate(counts):
            (tmp_path / "test" / group).mkdir(parents=True, exist_ok=True)
            passage = {
                "article": "long",
                "questions": ["why?"] * count,
                "options": [list("abcd")] * count,
                "answers": ["B"] * count,
            }
            (tmp_path / "test" / group / f"{group}{number}.txt").write_text(json.dumps(passage))
    examples = read_official_files(find_task("race"), tmp_path, "test")
    write_predictions(epath.Path(tmp_path), "test", find_task("race"), np.ones(10, int), examples)
    for group, count in (("middle", 4), ("high", 6)):
        lines = (tmp_path / f"test_{group}.tsv").read_text().splitlines()
        assert lines[1:] == [f"{index}\tB" for index in range(count)]
