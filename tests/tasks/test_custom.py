"""`custom`: a user's own files, whose labels, scores or choices are found in the data."""

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from configs.finetune import paper
from gpt1_jax.config import FinetuneConfig
from gpt1_jax.errors import UserError
from gpt1_jax.tasks import custom
from gpt1_jax.tasks.examples import find_columns, parse_example
from gpt1_jax.tasks.task import Example, Kind, Task, TaskSplit


def config(kind: Kind | None, columns: str = "", **fields: Any) -> FinetuneConfig:
    settings = paper("custom").finetune
    assert settings
    return FinetuneConfig(**vars(settings) | {"kind": kind, "columns": columns} | fields)


def read_custom(
    finetune: FinetuneConfig, path: Path, split_seed: int = 0, begun: Task | None = None
) -> tuple[Task, dict[TaskSplit, list[Example]]]:
    return custom.read_custom(finetune, path, split_seed, begun)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes the rows in the format that the name of the file says."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            dialect = csv.excel if path.suffix == ".csv" else csv.excel_tab
            table = csv.DictWriter(file, list(rows[0]), dialect=dialect)
            table.writeheader()
            table.writerows(rows)
    return path


def reviews(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"Text, {number}", "label": label} for number, label in enumerate(labels)]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_a_directory_has_a_file_for_each_split(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"train.{suffix}", reviews("sad", "glad", " sad", "odd"))
    write(tmp_path / "validation.csv", reviews("odd"))
    write(tmp_path / f"test.{suffix}", [{"text": "Text", "id": 3}])
    task, examples = read_custom(config("classification"), tmp_path)
    assert (task.name, task.kind, task.labels) == ("custom", "classification", ("glad", "odd", "sad"))
    assert task.metrics == ("accuracy",)
    assert [example.label for example in examples["train"]] == [2, 0, 2, 1]
    assert examples["validation"] == [Example(("Text, 0",), 1)]
    assert examples["test"] == [Example(("Text",), None)]


def test_of_a_single_file_every_tenth_example_of_each_class_is_held_out(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", reviews(*[True, False] * 20))
    task, examples = read_custom(config("classification"), path)
    assert (task.labels, task.metrics) == (("False", "True"), ("accuracy", "f1"))
    assert sorted(example.label or 0 for example in examples["validation"]) == [0, 0, 1, 1]
    assert len(examples["train"]) == 36
    assert "test" not in examples
    by_old_rule = read_custom(config("classification"), path, -1)[1]["validation"]
    assert [example.texts[0] for example in by_old_rule] == [f"Text, {number}" for number in (9, 19, 29, 39)]


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    rows = [{"a": "p", "b": "x", "c": "y", "is": number % 2} for number in range(4)]
    path = write(tmp_path / "mine.csv", rows)
    settings = config("entailment", "premise=a, hypothesis=b+c,label=is")
    task, examples = read_custom(settings, path, -1)
    assert task.labels == ("0", "1")
    assert examples["train"][1] == Example(("p", "x y"), 1)
    record = {"premise": "p", "hypothesis": "h"}
    assert parse_example(task, record, find_columns(task, [record])) == Example(("p", "h"), None)
    with pytest.raises(UserError, match="names the column of premise twice"):
        read_custom(config("entailment", "premise=a,premise=b,hypothesis=b+c,label=is"), path, -1)


def test_a_column_whose_name_has_a_plus_is_found_by_it(tmp_path: Path) -> None:
    rows = [{"t+u": f"both {n}", "t": "t", "u": "u", "a+b": "xy"[n % 2]} for n in range(4)]
    path = write(tmp_path / "mine.csv", rows)
    task, examples = read_custom(config("classification", "text=t+u,label=a+b"), path, -1)
    assert [example.texts for example in examples["train"]] == [(f"both {n}",) for n in range(3)]
    assert task.columns == {"text": "t+u", "label": "a+b"} and task.labels == ("x", "y")
    assert custom.read_custom_validation(path, task)[3] == Example(("both 3",), 1)
    joined = Task.from_dict(task.to_dict() | {"columns": {"text": ["t", "u"], "label": "a+b"}})
    begun = read_custom(config("classification", "text=t+u,label=a+b"), path, -1, joined)[1]["train"]
    assert begun[0].texts == ("t u",)  # as a run reads that was begun when the plus always joined
    with pytest.raises(
        UserError, match=r"label=t\+a, which is not a column of the data; its columns are 't\+u', 't', 'u'"
    ):
        read_custom(config("classification", "text=t,label=t+a"), path, -1)


def pairs(*labels: Any) -> list[dict[str, Any]]:
    return [{"sentence1": "a", "sentence2": "b", "label": label} for label in labels]


@pytest.mark.parametrize(
    ("labels", "scores", "score_range"),
    [
        ((1, 2.5, 4.2, 3), "classes", (1, 5)),
        ((-0.5, 2, 4), "classes", (-1, 4)),
        ((0, 3, 1, 2), "regression", (0, 3)),
        ((0, 3, 1, 2), "classes", None),
        (("a", 2.5), "classes", None),
        ((True, 2.5), "classes", None),
        ((1.0, 2.0), "classes", None),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_similarity_is_scored_where_its_labels_have_fractions_or_regression_is_asked_for(
    tmp_path: Path, suffix: str, labels: tuple[Any, ...], scores: str, score_range: tuple[int, int] | None
) -> None:
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.{suffix}", pairs(*labels))
    task, examples = read_custom(config("similarity", scores=scores), tmp_path)
    assert task.score_range == score_range
    if score_range:
        assert (task.metrics, task.labels) == (("pearson", "spearman"), ())
        assert [example.label for example in examples["train"]] == list(labels)
    else:
        assert task.labels == tuple(sorted(map(str, labels)))


def test_the_range_of_scores_is_that_of_training_and_others_may_lie_outside(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", pairs(0.5, 5))
    write(tmp_path / "validation.csv", pairs(6.5))
    write(tmp_path / "test.csv", pairs(-1.0, "-1", 4, "", -2))
    task, examples = read_custom(config("similarity"), tmp_path)
    assert task.score_range == (0, 5)
    assert [example.label for example in examples["validation"]] == [6.5]
    assert [example.label for example in examples["test"]] == [None, None, 4, None, -2]  # -1 is "not known"
    write(tmp_path / "train.csv", pairs(-1.5, 5))
    assert [x.label for x in read_custom(config("similarity"), tmp_path)[1]["test"]] == [-1, -1, 4, None, -2]
    write(tmp_path / "train.csv", pairs(0.5, 5))
    write(tmp_path / "validation.csv", pairs(-1.0))
    with pytest.raises(UserError, match=r"line 2 of .*validation.csv .*'-1.0', expected a score from 0 to 5"):
        read_custom(config("similarity"), tmp_path)


def test_choices_are_a_list_or_several_columns(tmp_path: Path) -> None:
    rows = [{"context": "c", "question": "q", "choices": ["x", "y", "z"], "label": n % 3} for n in range(4)]
    task, examples = read_custom(config("choice"), write(tmp_path / "mine.jsonl", rows), -1)
    assert (task.choices, task.labels, task.metrics) == (3, (), ("accuracy",))
    assert examples["train"][1] == Example(("c", "q", "x", "y", "z"), 1)

    table = [{"story": "c", "end1": "x", "end2": "y", "label": label} for label in "xyxy"]
    settings = config("choice", "context=story,choices=end1+end2")
    task, examples = read_custom(settings, write(tmp_path / "mine.csv", table))
    assert task.choices == 2
    assert sorted(example.label or 0 for example in examples["train"]) == [0, 1]
    assert [example.texts for example in examples["validation"]] == [("c", "", "x", "y")] * 2


STORIES = [{"context": "c", **pairs(0)[0]}]


@pytest.mark.parametrize(
    ("settings", "train", "validation", "told"),
    [
        (config(None), reviews(0, 1), reviews(0), "finetune.kind is missing; .*classification, entailment"),
        (
            config("classification"),
            [{"body": "a", "label": 1}],
            reviews(0),
            "line 2 of .*train.csv has no column 'text' but 'body', 'label'.*finetune.columns=text=COLUMN",
        ),
        (
            config("classification", "label=stars"),
            reviews(0, 1),
            reviews(0),
            "line 2 of .*train.csv has no column 'stars' but 'text', 'label'.*finetune.columns=label=COLUMN",
        ),
        (
            config("classification"),
            reviews("b", "a"),
            reviews("a", "c"),
            "line 3 of .*validation.csv .*'label' is 'c', expected one of 'a', 'b'",
        ),
        (
            config("classification"),
            reviews("b", "", "a"),
            reviews("a"),
            "line 3 of .*train.csv .*'label' is missing; give the row a label",
        ),
        (config("classification"), reviews("b", "b"), reviews("b"), "'label' is 'b' in all rows"),
        (
            config("similarity", scores="regression"),
            pairs(1, "x", 2),
            pairs(1),
            "line 3 .*'label' is 'x', expected",
        ),
        (config("similarity"), pairs(1, 2.5, "x"), pairs(1), "line 4 .*'label' is 'x', expected a score"),
        (
            config("similarity"),
            pairs(0.5, 900_000),
            pairs(1),
            "scores=classes would make a class of each of the 9e.05 whole scores from 0 to 900000",
        ),
        (
            config("classification"),
            reviews(*range(10_001)),
            reviews(1),
            "'label' has 10,001 different labels in training, expected at most 10,000",
        ),
        (config("classification"), reviews("a", "b\tc"), reviews("a"), r"line 3 .* without TAB and line"),
        (config("classification"), reviews("a", "b\nc"), reviews("a"), r"line 4 .* without TAB and line"),
        (
            config("choice", "choices=sentence1"),
            STORIES,
            STORIES,
            'line 2 of .*choices "a"; write a list of two',
        ),
        (
            config("choice", "choices=sentence1+none"),
            STORIES,
            STORIES,
            "no column 'none'",
        ),
        (
            config("classification", "premise=a"),
            reviews(0, 1),
            reviews(0),
            "finetune.columns='premise=a' has the",
        ),
        (config("classification", "text"), reviews(0, 1), reviews(0), "entry 'text'; write ROLE=COLUMN"),
        (
            config("classification", "label=a+b"),
            reviews(0, 1),
            reviews(0),
            r"has label=a\+b, which is not a column of the data; its columns are 'text', 'label'",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(
    tmp_path: Path,
    settings: FinetuneConfig,
    train: list[dict[str, Any]],
    validation: list[dict[str, Any]],
    told: str,
) -> None:
    write(tmp_path / "train.csv", train)
    write(tmp_path / "validation.csv", validation)
    with pytest.raises(UserError, match=told):
        read_custom(settings, tmp_path)


def test_every_example_has_as_many_choices(tmp_path: Path) -> None:
    rows = [{"context": "c", "choices": ["x", "y", "z"][:count], "label": 0} for count in (2, 3)]
    with pytest.raises(UserError, match=r"line 2 of .*3 choices, expected 2"):
        read_custom(config("choice"), write(tmp_path / "mine.jsonl", rows))


def test_missing_ambiguous_empty_and_other_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"has no file for train; name a directory with one train.{jsonl,csv,tsv}"
    ):
        read_custom(config("classification"), tmp_path)
    write(tmp_path / "train.csv", reviews(0, 1))
    with pytest.raises(UserError, match="has no file for validation"):
        read_custom(config("classification"), tmp_path)
    write(tmp_path / "train.jsonl", reviews(0, 1))
    with pytest.raises(UserError, match=r"has train.csv and train.jsonl for train"):
        read_custom(config("classification"), tmp_path)
    (tmp_path / "mine.jsonl").write_text("")
    with pytest.raises(UserError, match=r"mine.jsonl holds no examples"):
        read_custom(config("classification"), tmp_path / "mine.jsonl")
    with pytest.raises(UserError, match=r"none does not exist; name a directory, or a file"):
        read_custom(config("classification"), tmp_path / "none")
    (tmp_path / "mine.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"mine.xlsx is not named \*.{jsonl,csv,tsv}"):
        read_custom(config("classification"), tmp_path / "mine.xlsx")


def test_names_may_end_in_upper_case_and_gzip_may_have_packed_them(tmp_path: Path) -> None:
    for name in ("train.CSV", "validation.Csv"):
        write(tmp_path / "x.csv", reviews(0, 1)).rename(tmp_path / name)
    packed = gzip.compress(write(tmp_path / "y.jsonl", reviews(0, 1)).read_bytes())
    (tmp_path / "test.jsonl.gz").write_bytes(packed)
    _, splits = read_custom(config("classification"), tmp_path)
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 2,
        "validation": 2,
        "test": 2,
    }


def test_a_file_that_is_not_there_and_a_pipe_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine.csv cannot be read .No such file"):
        read_custom(config("classification"), tmp_path / "mine.csv")
    os.mkfifo(tmp_path / "mine.csv")
    with pytest.raises(UserError, match=r"mine.csv is not a regular file"):
        read_custom(config("classification"), tmp_path / "mine.csv")
