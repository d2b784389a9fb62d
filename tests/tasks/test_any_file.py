"""Any file of a user becomes a task whose rows are all predicted, or one sentence says what is wrong."""

import csv
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.finetune import paper
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.encoding import head_outputs
from gpt1_jax.tasks.predictions import predict_labels, write_predictions
from gpt1_jax.tasks.reading import read_task, read_validation
from gpt1_jax.tasks.scoring import score_predictions
from gpt1_jax.tasks.summary import describe_labels
from gpt1_jax.tasks.task import ROLES, WHOLE_KINDS, Example, Kind, Task

PLAIN = [[0, 1, "1", 1.0, True], ["a", "b", "None"], [0.5, 2, "3.25", -1.0], ["+", "-"], ["1", "2", "x"]]
ODD = [
    None,
    math.nan,
    math.inf,
    10**400,
    1e300,
    "",
    "nan",
    "a\tb",
    "a\nb",
    '"q',
    "\u2028",
    "\x00",
    [],
    {"a": 1},
]
TEXTS = ["a", "", "b c", "in\ntwo", 3, None]


@st.composite
def labels(draw: st.DrawFn) -> list[Any]:
    """Draws labels of one kind, now and then with others among them."""
    pool = draw(st.sampled_from(PLAIN))
    odd = draw(st.lists(st.sampled_from(ODD), max_size=1))
    return draw(st.permutations([*draw(st.lists(st.sampled_from(pool), min_size=1, max_size=25)), *odd]))


def write(path: Path, kind: Kind, values: list[Any], text: Any) -> None:
    fields = dict.fromkeys(ROLES[kind], text) | ({"choices": ["x", "y"]} if kind == "choice" else {})
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(fields | {"label": value}) + "\n" for value in values)
        else:
            table = csv.writer(file, csv.excel if path.suffix == ".csv" else csv.excel_tab)
            table.writerow([*fields, "label"])
            table.writerows([*fields.values(), value] for value in values)


def check(directory: Path, task: Task, split: str, examples: list[Example], scores: Any) -> np.ndarray:
    """Predictions of any logits are written a line each and read back."""
    logits = np.random.default_rng(0).normal(0, 9, (len(examples), head_outputs(task, scores)))
    predictions = predict_labels(task, logits.astype(np.float32), scores)
    write_predictions(epath.Path(directory), split, task, predictions, examples)
    with (directory / f"{split}.tsv").open(encoding="utf-8", newline="") as file:
        written = [row["prediction"] for row in csv.DictReader(file, delimiter="\t")]
    if task.labels:
        assert written == [task.labels[number] for number in predictions]
    elif task.score_range:
        low, high = task.score_range
        assert len(written) == len(examples) and all(low <= float(score) <= high for score in written)
    else:
        assert written == [str(number) for number in predictions]
    return predictions


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(WHOLE_KINDS),
    scores=st.sampled_from(["classes", "regression"]),
    suffix=st.sampled_from(["jsonl", "csv", "tsv"]),
    splits=st.lists(labels(), min_size=3, max_size=3),
    text=st.sampled_from(TEXTS),
    lone=st.booleans(),
    split_seed=st.integers(-1, 3),
)
def test_any_file_is_a_task_or_a_sentence(
    kind: Kind, scores: Any, suffix: str, splits: list[list[Any]], text: Any, lone: bool, split_seed: int
) -> None:
    config = paper("custom")
    assert config.finetune
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for split, values in zip(("train", "validation", "test"), splits, strict=True):
            write(directory / f"{split}.{suffix}", kind, values, text)
        source = directory / f"train.{suffix}" if lone else directory
        finetune = replace(config.finetune, kind=kind, scores=scores)
        data = replace(config.data, source=f"files:{source}", split_seed=split_seed)
        try:
            found = read_task(finetune, data)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            return
        task = found.task
        read = found.train + found.validation if lone else found.train
        assert len(read) == len(splits[0])
        assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task
        assert read_task(finetune, data, task) == found
        assert read_validation(task, finetune, data, None) == found.validation
        assert all(len(line) < 1000 for line in describe_labels(task, found.train, found.validation))
        predictions = check(directory, task, "validation", found.validation, scores)
        assert all(map(math.isfinite, score_predictions(task, predictions, found.validation).values()))
        if not lone:
            assert len(found.test) == len(splits[2])
            check(directory, task, "test", found.test, scores)
