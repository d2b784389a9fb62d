"""Predictions as files: GLUE's submission format to the character."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from gpt1_jax.tasks.predictions import named, write_predictions
from gpt1_jax.tasks.task import Example, Task

ENTAILMENT = Task("pairs", "entailment", ("accuracy",), labels=("entailment", "not_entailment"))
SCORES = Task("scores", "similarity", ("pearson",), score_range=(0, 5))
CHOICES = Task("choices", "choice", ("accuracy",), choices=4)
LETTERED = Task("lettered", "choice", ("accuracy",), choices=2, answers=("A", "B"))


def write(directory: Path, task: Task, predictions: list[float], groups: list[str]) -> dict[str, str]:
    """The files that predictions make, by name."""
    examples = [Example((), None, group) for group in groups]
    write_predictions(epath.Path(directory) / "predictions", "test", task, np.array(predictions), examples)
    return {path.name: path.read_bytes().decode() for path in (directory / "predictions").iterdir()}


def test_a_class_is_written_by_name(tmp_path: Path) -> None:
    assert write(tmp_path, ENTAILMENT, [1, 0, 0], [""] * 3) == {
        "test.tsv": "index\tprediction\n0\tnot_entailment\n1\tentailment\n2\tentailment\n"
    }


def test_a_score_is_written_to_three_decimals(tmp_path: Path) -> None:
    assert write(tmp_path, SCORES, [3.14159, 0, 4], [""] * 3) == {
        "test.tsv": "index\tprediction\n0\t3.142\n1\t0.000\n2\t4.000\n"
    }


def test_a_class_of_any_name_is_read_back_by_readers_of_tsv(tmp_path: Path) -> None:
    names = ('"quoted" at first', "a, b", "it's", 'in "between"', "naïve ☕", "#1", " ".join("ab"))
    task = Task("odd", "classification", ("accuracy",), labels=names)
    (text,) = write(tmp_path, task, list(range(len(names))), [""] * len(names)).values()
    assert len(text.splitlines()) == 1 + len(names)
    rows = [{"index": str(index), "prediction": name} for index, name in enumerate(names)]
    assert list(csv.DictReader(io.StringIO(text), delimiter="\t")) == rows


def test_a_choice_is_written_by_number(tmp_path: Path) -> None:
    assert write(tmp_path, CHOICES, [3, 0], ["", ""]) == {"test.tsv": "index\tprediction\n0\t3\n1\t0\n"}


def test_each_group_has_a_file_numbered_from_zero(tmp_path: Path) -> None:
    groups = ["matched", "mismatched", "mismatched", "matched", "mismatched"]
    assert write(tmp_path, ENTAILMENT, [0, 1, 0, 1, 1], groups) == {
        "test_matched.tsv": "index\tprediction\n0\tentailment\n1\tnot_entailment\n",
        "test_mismatched.tsv": "index\tprediction\n0\tnot_entailment\n1\tentailment\n2\tnot_entailment\n",
    }


def test_no_examples_make_no_file(tmp_path: Path) -> None:
    assert write(tmp_path, ENTAILMENT, [], []) == {}


def test_predictions_and_examples_must_be_as_many(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write(tmp_path, ENTAILMENT, [0, 1], ["", "", ""])


@pytest.mark.parametrize(
    ("task", "prediction", "name"),
    [(ENTAILMENT, 1, "not_entailment"), (SCORES, 2.5, "2.500"), (CHOICES, 2, "2"), (LETTERED, 1, "B")],
    ids=lambda value: value.name if isinstance(value, Task) else None,
)
def test_one_prediction_is_named(task: Task, prediction: float, name: str) -> None:
    assert named(task, prediction) == name
