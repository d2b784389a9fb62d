"""Labels: which spellings are one class, what is missing, what is a score."""

import csv
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.finetune import paper
from gpt1_jax.config import FinetuneConfig
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.custom import read_custom
from gpt1_jax.tasks.labels import (
    are_scores,
    distinct_classes,
    find_choice,
    find_class,
    find_score,
    is_not_known,
    spell_label,
)
from gpt1_jax.tasks.task import Example

SUFFIXES = ("jsonl", "csv", "tsv")
ONE = (1, 1.0, "1", "1.0", " 1 ", "1.00")
TRUE = (True, "True", "true", "TRUE", " true")
NOTHING = (None, "", "  ", math.nan, -math.nan)
# csv.writer writes the first for a number, of Python's or NumPy's, that is none.
NAN_IN_TEXT = ("nan", "NaN", "-nan")
frugal = settings(max_examples=100, deadline=None, derandomize=True)


def config(**fields: Any) -> FinetuneConfig:
    settings = paper("custom").finetune
    assert settings
    return replace(settings, **{"kind": "classification"} | fields)


def write(path: Path, labels: list[Any], **texts: str) -> None:
    """A file of texts and labels; a table's cells are what Python's csv makes of them."""
    texts = texts or {"text": "a"}
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(texts | {"label": label}) + "\n" for label in labels)
        else:
            table = csv.writer(file, csv.excel if path.suffix == ".csv" else csv.excel_tab)
            table.writerow([*texts, "label"])
            table.writerows([*texts.values(), label] for label in labels)


# ── Classes ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "spellings",
    [
        ONE,
        TRUE,
        (0, -0.0, "0", "-0", "0.0"),
        (-3, "-3.0"),
        (10**17, "1" + "0" * 17),
        (10**20, 1e20, "1e+20", "1" + "0" * 20 + ".0"),
        (-(10**23), -1e23, "-1e+23"),
        (125 * 10**20, 1.25e22),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_spellings_of_one_class_meet(spellings: tuple[Any, ...]) -> None:
    texts = [text for value in spellings if (text := spell_label(value)) is not None]
    assert len(texts) == len(spellings)
    for one, other in itertools.product(texts, repeat=2):
        assert len(distinct_classes([one, other])) == 1
        assert find_class(other, ("a", one)) == 1
    assert distinct_classes(texts)[0] == min(texts, key=lambda text: (len(text), text))


@pytest.mark.parametrize(
    "labels",
    [
        ("1", "01"),
        ("1.1", "1.10"),
        ("1", "1e0"),
        ("1e+20", "1e+21"),
        ("1e-05", "1e+05", "1e5"),
        ("yes", "Yes"),
        ("none", "null"),
        ("1", "1.0.0"),
        ("1", "١"),
    ],
)
def test_other_spellings_stay_apart(labels: tuple[str, ...]) -> None:
    assert distinct_classes(labels) == tuple(sorted(labels))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("1", "1.0", "True", "0"), ("0", "1")),
        (("True", "0", "false"), ("0", "True")),
        (("true", "False", "TRUE"), ("False", "TRUE")),
        (("1", "2", "true"), ("1", "2", "true")),
        (("true", "false", "unknown"), ("false", "true", "unknown")),
    ],
)
def test_true_and_false_are_one_and_zero_only_among_themselves(
    labels: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    assert distinct_classes(labels) == classes


def test_truth_values_of_one_file_meet_the_numbers_of_another() -> None:
    for classes in (("0", "1"), ("False", "True"), ("0.0", "1.0"), ("false", "1")):
        for number, spellings in enumerate([("0", "0.0", "False"), ("1", "1.0", "true")]):
            assert [find_class(label, classes) for label in spellings] == [number] * 3
    with pytest.raises(ValueError, match="is 'True', expected one of '0', '1', '2'"):
        find_class("True", ("0", "1", "2"))


def test_classes_that_an_earlier_version_counted_as_two_stay_two() -> None:
    assert [find_class(label, ("1", "1.0", "true")) for label in ("1", "1.0", "true")] == [0, 1, 2]


@frugal
@given(
    st.lists(
        st.one_of(st.integers(-3, 3), st.sampled_from((*ONE, *TRUE, 0, False, "a", "b", 0.5))), min_size=1
    )
)
def test_every_label_finds_one_class_and_every_class_has_a_label(values: list[Any]) -> None:
    labels = [str(spell_label(value)) for value in values]
    classes = distinct_classes(labels)
    assert len(set(classes)) == len(classes) and list(classes) == sorted(classes)
    assert {find_class(label, classes) for label in labels} == set(range(len(classes)))
    assert distinct_classes(reversed(labels)) == classes
    assert set(classes) <= set(labels)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("train", "other"), list(itertools.product(ONE[:4] + TRUE[:2], repeat=2)))
def test_training_and_validation_meet_in_any_file_and_spelling(
    tmp_path: Path, suffix: str, train: Any, other: Any
) -> None:
    write(tmp_path / f"train.{suffix}", [train, 0, other, False])
    write(tmp_path / f"validation.{suffix}", [other, train, 0.0])
    task, examples = read_custom(config(), tmp_path, 0)
    assert len(task.labels) == 2
    assert [example.label for example in examples["train"]] == [1, 0, 1, 0]
    assert [example.label for example in examples["validation"]] == [1, 1, 0]


# ── Missing ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", NOTHING)
def test_null_nothing_and_nan_are_missing(value: Any) -> None:
    assert spell_label(value) is None
    assert spell_label(value, typed=False) is None


@pytest.mark.parametrize("value", ["None", "null", "NA", "n/a", "0", 0, False, "-", "+"])
def test_words_and_zero_are_not_missing(value: Any) -> None:
    assert spell_label(value) == spell_label(value, typed=False) == str(value)


@pytest.mark.parametrize("word", NAN_IN_TEXT)
def test_nan_is_a_word_where_json_quotes_it_and_missing_in_a_table(word: str) -> None:
    assert spell_label(word) == word
    assert spell_label(word, typed=False) is None


@pytest.mark.parametrize("word", [*NAN_IN_TEXT, "None", "null", "NA"])
def test_a_quoted_word_of_json_names_a_class(tmp_path: Path, word: str) -> None:
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.jsonl", [word, "zz"])
    task, examples = read_custom(config(), tmp_path, 0)
    assert task.labels == (word, "zz")
    assert [[example.label for example in part] for part in examples.values()] == [[0, 1]] * 3


@pytest.mark.parametrize("value", [[1], {"a": 1}, math.inf, -math.inf])
def test_what_is_no_text_and_no_number_is_no_label(value: Any) -> None:
    with pytest.raises(ValueError, match="expected a text or a number"):
        spell_label(value)


@pytest.mark.parametrize(
    ("suffix", "missing"),
    [*itertools.product(SUFFIXES, NOTHING), *itertools.product(("csv", "tsv"), NAN_IN_TEXT)],
)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_missing_label_is_refused_by_its_row(tmp_path: Path, suffix: str, missing: Any, split: str) -> None:
    labels = {"train": ["None", "b"], "validation": ["None"]}
    labels[split].append(missing)
    for name, values in labels.items():
        write(tmp_path / f"{name}.{suffix}", values)
    line = len(labels[split]) + (suffix != "jsonl")
    with pytest.raises(UserError, match=f"line {line} of .*{split}.{suffix} .*'label' is missing"):
        read_custom(config(), tmp_path, 0)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_test_label_that_is_missing_or_minus_one_is_not_known(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"train.{suffix}", ["None", "b"])
    write(tmp_path / f"validation.{suffix}", ["b"])
    missing = NOTHING if suffix == "jsonl" else NOTHING + NAN_IN_TEXT
    write(tmp_path / f"test.{suffix}", [*missing, -1, -1.0, "-1", "b", "None"])
    examples = read_custom(config(), tmp_path, 0)[1]["test"]
    assert [example.label for example in examples] == [*[None] * (len(missing) + 3), 1, 0]
    write(tmp_path / f"test.{suffix}", ["c"])
    with pytest.raises(UserError, match="'label' is 'c', expected one of 'None', 'b'"):
        read_custom(config(), tmp_path, 0)


def test_minus_one_is_a_class_where_training_has_it(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.jsonl", [-1, 0, 1.0])
    task, examples = read_custom(config(), tmp_path, 0)
    assert task.labels == ("-1", "0", "1.0")
    assert [example.label for example in examples["test"]] == [0, 1, 2]
    assert is_not_known("-1.0") and not is_not_known("-2")


# ── Scores and choices ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("labels", "scored"),
    [
        (["1", "2.5"], True),
        (["1", "2"], False),
        (["1", "2.5", "x"], True),  # the third is refused by its row
        (["2.5", "x"], False),
        (["1e-1", "2"], True),
        (["1,5", "2,0", "3"], True),  # refused by its row too
    ],
)
def test_most_labels_of_a_scored_task_are_numbers_and_one_has_a_fraction(
    labels: list[str], scored: bool
) -> None:
    assert are_scores(labels) == scored


@pytest.mark.parametrize("label", ["x", "inf", "-infinity", "1e39", "9" * 400, "1,5", "True"])
def test_what_is_no_score(label: str) -> None:
    assert math.isnan(find_score(label))


def test_nan_does_not_turn_scores_into_classes(tmp_path: Path) -> None:
    texts = {"sentence1": "a", "sentence2": "b"}
    write(tmp_path / "train.jsonl", [0.5, 1, 2.25, math.nan], **texts)
    write(tmp_path / "validation.jsonl", [1], **texts)
    with pytest.raises(UserError, match=r"line 4 of .*train.jsonl .*'label' is missing"):
        read_custom(config(kind="similarity"), tmp_path, 0)


@pytest.mark.parametrize(
    ("label", "choices", "number"),
    [("1", ("x", "y"), 1), ("1.0", ("x", "y"), 1), ("y", ("x", "y"), 1), ("true", ("true", "false"), 0)],
)
def test_a_choice_is_its_number_or_its_text(label: str, choices: tuple[str, ...], number: int) -> None:
    assert find_choice(label, choices) == number


@pytest.mark.parametrize(
    ("label", "choices", "told"),
    [
        ("2", ("x", "y"), "expected one of"),
        ("x", ("x", "x"), "the text of 2 choices; give the number"),
        ("0", ("1", "0"), "text of another"),
    ],
)
def test_a_label_that_means_no_or_several_choices_is_refused(
    label: str, choices: tuple[str, ...], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        find_choice(label, choices)


def test_an_example_of_a_score_of_zero_is_labeled() -> None:
    assert Example((), find_score("0")).label == 0
