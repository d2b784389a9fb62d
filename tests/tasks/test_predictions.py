"""Predictions as files: GLUE's submission format to the character, CoNLL's columns and SQuAD's JSON."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from gpt1_jax.tasks.predictions import describe_tags, named, write_predictions
from gpt1_jax.tasks.spans import Answer
from gpt1_jax.tasks.structured import read_sentence
from gpt1_jax.tasks.tagged_files import read_conll
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


# ── Tags, answers and texts ──────────────────────────────────────────────────────────────────────────────────


def test_tags_are_columns_that_read_back_whatever_words_are(tmp_path: Path) -> None:
    task = Task("any", "tagging", ("f1",), labels=("O", "B-X"))
    examples = [Example(("a", "b\tc\nd"), (1, 0)), Example(("", "New York"), (0, 1))]
    write_predictions(epath.Path(tmp_path), "validation", task, [(1, 1), (0, 0)], examples)
    sentences = [row.fields for row in read_conll(tmp_path / "validation.tsv")]
    assert sentences == [
        {"words": ["a", "b c d"], "tags": ["B-X", "B-X"]},
        {"words": ["_", "New York"], "tags": ["O", "O"]},
    ]
    assert (tmp_path / "validation.tsv").read_text().splitlines()[0] == "a\tB-X\tB-X"


def test_tags_without_right_ones_have_two_columns(tmp_path: Path) -> None:
    task = Task("any", "tagging", ("f1",), labels=("O", "B-X"))
    write_predictions(epath.Path(tmp_path), "test", task, [(1,)], [Example(("a",), None)])
    assert (tmp_path / "test.tsv").read_text() == "a\tB-X\n"


def test_answers_are_what_squads_script_reads(tmp_path: Path) -> None:
    """By their ids, or by their numbers where they have none."""
    task = Task("any", "span", ("f1",))
    examples = [Example(("?", "né"), (), id="q1"), Example(("?", "b"), None)]
    said = [Answer("né", 0, 2, 0.5), Answer("", 0, 0, 0.5)]
    write_predictions(epath.Path(tmp_path), "validation", task, said, examples)
    assert (tmp_path / "validation.json").read_text(encoding="utf-8") == '{"q1": "né", "1": ""}\n'


def test_entities_have_the_characters_of_the_text() -> None:
    task = Task("any", "tagging", ("f1",), labels=("O", "B-X", "I-X"))
    text = "Then  Ann\u00a0Lee, née Roe."
    sentence = read_sentence({"text": text}, {})
    assert [word.text for word in sentence.words] == ["Then", "Ann", "Lee", ",", "née", "Roe", "."]
    found = describe_tags(task, (0, 1, 2, 0, 0, 1, 0), sentence)
    assert found["entities"] == [
        {"label": "X", "text": "Ann\u00a0Lee", "start": 6, "end": 13},
        {"label": "X", "text": "Roe", "start": 19, "end": 22},
    ]
    listed = read_sentence({"words": ["Ann", "Lee"]}, {})
    assert describe_tags(task, (1, 2), listed)["entities"][0]["text"] == "Ann Lee"
