"""The catalog: every task of the paper by name, with the kind, metrics and labels of its benchmark."""

import json
import re

import pytest

from configs import finetune
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.catalog import CATALOG, find_task
from gpt1_jax.tasks.task import ROLES, Task

GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "ax")
PAPER = (*GLUE, "snli", "scitail", "race", "race_middle", "race_high", "story_cloze", "dprd")
BEYOND = ("conll2003", "wnut17", "ud_pos", "squad", "squad2")
DEMO = ("demo_genre", "demo_entailment", "demo_same_verse", "demo_next_verse", "demo_names", "demo_span")


def test_the_catalog_has_the_papers_tasks_the_users_own_and_the_embedded_ones() -> None:
    assert sorted(CATALOG) == sorted([*PAPER, *BEYOND, "custom", *DEMO])
    assert all(find_task(name).name == name for name in CATALOG)


def test_the_fine_tuning_config_lists_every_task_and_every_kind() -> None:
    listed = set(re.findall(r"\w+", finetune.__doc__ or ""))
    assert {*CATALOG} - {"dprd", "ax"} <= listed and {*ROLES} <= listed


@pytest.mark.parametrize(
    ("name", "kind", "metrics"),
    [
        ("cola", "classification", ("matthews_correlation", "accuracy")),
        ("sst2", "classification", ("accuracy",)),
        ("mrpc", "similarity", ("f1", "accuracy")),
        ("qqp", "similarity", ("f1", "accuracy")),
        ("stsb", "similarity", ("pearson", "spearman")),
        ("mnli", "entailment", ("accuracy",)),
        ("qnli", "entailment", ("accuracy",)),
        ("rte", "entailment", ("accuracy",)),
        ("wnli", "entailment", ("accuracy",)),
        ("ax", "entailment", ("matthews_correlation", "accuracy")),
        ("snli", "entailment", ("accuracy",)),
        ("scitail", "entailment", ("accuracy",)),
        ("race", "choice", ("accuracy",)),
        ("race_middle", "choice", ("accuracy",)),
        ("race_high", "choice", ("accuracy",)),
        ("story_cloze", "choice", ("accuracy",)),
        ("dprd", "choice", ("accuracy",)),
        ("conll2003", "tagging", ("f1", "accuracy")),
        ("wnut17", "tagging", ("f1", "accuracy")),
        ("ud_pos", "tagging", ("accuracy",)),
        ("squad", "span", ("f1", "exact_match")),
        ("squad2", "span", ("f1", "exact_match")),
        ("demo_names", "tagging", ("f1", "accuracy")),
        ("demo_span", "span", ("f1", "exact_match")),
    ],
)
def test_each_task_has_the_kind_and_metrics_of_its_benchmark(
    name: str, kind: str, metrics: tuple[str, ...]
) -> None:
    task = find_task(name)
    assert (task.kind, task.metrics) == (kind, metrics)


def test_labels_are_the_names_of_the_official_files() -> None:
    assert {name: find_task(name).labels for name in PAPER if find_task(name).labels} == {
        **dict.fromkeys(("cola", "sst2", "mrpc", "qqp", "wnli"), ("0", "1")),
        **dict.fromkeys(("qnli", "rte"), ("entailment", "not_entailment")),
        **dict.fromkeys(("mnli", "ax", "snli"), ("entailment", "neutral", "contradiction")),
        "scitail": ("entails", "neutral"),
    }
    assert find_task("stsb").score_range == (0, 5)
    choices = {name: find_task(name).choices for name in PAPER if find_task(name).choices}
    assert choices == {"race": 4, "race_middle": 4, "race_high": 4, "story_cloze": 2, "dprd": 2}
    assert {name for name in PAPER if find_task(name).headline} == {"mnli"}


@pytest.mark.parametrize(
    ("name", "nearest"), [("colla", "cola"), ("SST-2", "sst2"), ("race-high", "race_high")]
)
def test_an_unknown_task_is_told_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"finetune.task={name} .* did you mean {nearest}[?]"):
        find_task(name)


@pytest.mark.parametrize("name", [*PAPER, *BEYOND, *DEMO])
def test_a_task_is_plain_data(name: str) -> None:
    task = find_task(name)
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_a_name_like_none_of_them_lists_all_tasks_and_guesses_none() -> None:
    with pytest.raises(UserError) as caught:
        find_task("imdb", named="--zero_shot=")
    message = str(caught.value)
    assert message.startswith("--zero_shot=imdb ") and "did you mean" not in message
    assert all(name in message for name in CATALOG)
