"""The door: which source a task is read from, what is held out where a set has no validation split."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sklearn.model_selection import train_test_split

from configs.finetune import paper
from gpt1_jax.config import Config
from gpt1_jax.errors import UserError
from gpt1_jax.tasks import reading
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.reading import (
    TaskData,
    is_training_file,
    read_split,
    read_task,
    read_validation,
)
from gpt1_jax.tasks.task import Example, Task


def config(task: str, source: str, kind: str | None = None, split_seed: int = 0) -> Config:
    settings = paper("cola")
    assert settings.finetune
    finetune = type(settings.finetune)(**vars(settings.finetune) | {"task": task, "kind": kind})
    data = replace(settings.data, source=source, tfds_dir="sets", split_seed=split_seed)
    return type(settings)(**vars(settings) | {"finetune": finetune, "data": data})


def read(task: str, source: str, kind: str | None = None, split_seed: int = 0) -> TaskData:
    settings = config(task, source, kind, split_seed)
    assert settings.finetune
    return read_task(settings.finetune, settings.data)


def write_rte(path: Path, count: int, label: bool = True) -> list[Example]:
    header, rows = "index\tsentence1\tsentence2", [f"{n}\ta {n}\tb" for n in range(count)]
    if label:
        header, rows = f"{header}\tlabel", [f"{row}\tentailment" for row in rows]
    path.write_text("\n".join([header, *rows]))
    return [Example((f"a {n}", "b"), 0 if label else None) for n in range(count)]


def test_official_files_give_their_splits(tmp_path: Path) -> None:
    train = write_rte(tmp_path / "train.tsv", 30)
    validation = write_rte(tmp_path / "dev.tsv", 3)
    assert read("rte", f"files:{tmp_path}") == TaskData(find_task("rte"), train, validation, [])
    test = write_rte(tmp_path / "test.tsv", 2, label=False)
    assert read("rte", f"files:{tmp_path}").test == test
    settings = config("rte", f"files:{tmp_path}")
    assert read_split(find_task("rte"), settings.data, "train") == train
    assert read_split(find_task("rte"), settings.data, "test") == test
    (tmp_path / "train.tsv").unlink()  # one split needs no other
    assert read_split(find_task("rte"), settings.data, "validation") == validation


def test_a_path_may_begin_with_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_rte(tmp_path / "train.tsv", 20)
    assert len(read("rte", "files:~").train) == 19


@pytest.mark.parametrize("split_seed", [-1, 0, 3])
def test_every_20th_example_is_held_out_where_there_is_no_validation_file(
    tmp_path: Path, split_seed: int
) -> None:
    examples = write_rte(tmp_path / "train.tsv", 40)
    data = read("rte", f"files:{tmp_path}", split_seed=split_seed)
    assert len(data.validation) == 2
    if split_seed == -1:
        assert data.validation == [examples[19], examples[39]]
    assert data.train == [example for example in examples if example not in data.validation]
    settings = config("rte", f"files:{tmp_path}", split_seed=split_seed)
    assert read_split(data.task, settings.data, "train") == data.train
    assert read_split(data.task, settings.data, "validation") == data.validation


def test_what_is_held_out_of_mnli_counts_as_matched(tmp_path: Path) -> None:
    table = ["index\tsentence1\tsentence2\tgold_label", *(f"{n}\tp\th\tneutral" for n in range(20))]
    (tmp_path / "train.tsv").write_text("\n".join(table))
    assert read("mnli", f"files:{tmp_path}").validation == [Example(("p", "h"), 1, "matched")]


def test_story_cloze_is_split_as_its_authors_did(tmp_path: Path) -> None:
    columns = [f"InputSentence{n}" for n in (1, 2, 3, 4)]
    columns += ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"]
    with (tmp_path / "cloze_test_val__spring2016.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["InputStoryid", *columns])
        table.writerows([n, f"Story {n}.", "b", "c", "d", "x", "y", 1 + n % 2] for n in range(1871))
    data = read("story_cloze", f"files:{tmp_path}")
    # Theirs: train_test_split(storys, comps1, comps2, ys, test_size=n_valid, random_state=seed)
    train, validation = train_test_split(range(1871), test_size=374, random_state=3535999445)
    assert [example.texts[0] for example in data.train] == [f"Story {n}. b c d" for n in train]
    assert [example.label for example in data.validation] == [n % 2 for n in validation]
    assert (len(data.train), len(data.validation), data.test) == (1497, 374, [])


def test_tfds_is_asked_for_each_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_tfds(task: Any, tfds_dir: str | None, split: str) -> list[Example]:
        assert (task.name, tfds_dir) == ("rte", "sets")
        return [Example((split, "b"), 0)]

    monkeypatch.setattr(reading, "read_tfds", read_tfds)
    data = read("rte", "tfds")
    splits = (data.train, data.validation, data.test)
    assert [examples[0].texts[0] for examples in splits] == ["train", "validation", "test"]


def test_the_users_own_task_has_the_labels_that_are_found(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"a {n}", "label": "yes" if n % 2 else "no"}) for n in range(20)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    data = read("custom", f"files:{tmp_path}/mine.jsonl", kind="classification")
    assert data.task.labels == ("no", "yes")
    assert (len(data.train), len(data.validation), data.test) == (18, 2, [])


# ── What a run is scored on, and a run that goes on ──────────────────────────────────────────────────────────


def write_reviews(path: Path, labels: str) -> Path:
    path.write_text("".join(json.dumps({"text": f"a {n}", "label": x}) + "\n" for n, x in enumerate(labels)))
    return path


def test_a_run_is_scored_on_what_it_held_out_and_a_named_file_whole(tmp_path: Path) -> None:
    own = f"files:{write_reviews(tmp_path / 'mine.jsonl', 'ab' * 20)}"
    settings = config("custom", own, "classification")
    assert settings.finetune
    data = read("custom", own, "classification")

    def scored_on(source: str | None) -> list[Example]:
        assert settings.finetune
        return read_validation(data.task, settings.finetune, settings.data, source)

    assert scored_on(None) == data.validation and len(data.validation) == 4
    assert len(scored_on(own)) == 40
    other = write_reviews(tmp_path / "other.jsonl", "b" * 7)  # without one of the classes
    assert [example.label for example in scored_on(f"files:{other}")] == [1] * 7
    (tmp_path / "parts").mkdir()
    write_reviews(tmp_path / "parts" / "validation.jsonl", "ab")  # alone: nothing is learned from it
    assert [example.label for example in scored_on(f"files:{tmp_path}/parts")] == [0, 1]
    write_reviews(other, "abc")
    with pytest.raises(UserError, match=r"line 3 of .*'label' is 'c', expected one of 'a', 'b'"):
        scored_on(f"files:{other}")
    assert is_training_file(settings.data, f"files:{tmp_path}/parts/../mine.jsonl")
    assert not is_training_file(settings.data, f"files:{other}")


def test_a_file_to_score_may_have_a_narrower_or_a_wider_range_of_scores(tmp_path: Path) -> None:
    def write(name: str, *scores: float) -> str:
        rows = [{"sentence1": "a", "sentence2": "b", "label": score} for score in scores]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return f"files:{tmp_path}/{name}"

    settings = config("custom", write("mine.jsonl", 0.5, 4, 2, 5), "similarity")
    assert settings.finetune
    task = read("custom", settings.data.source, "similarity").task
    for scores in ([1.5, 2], [-2, 7.5]):
        other = write("other.jsonl", *scores)
        found = read_validation(task, settings.finetune, settings.data, other)
        assert [example.label for example in found] == scores


def test_a_run_that_goes_on_keeps_its_classes_and_scores(tmp_path: Path) -> None:
    path = write_reviews(tmp_path / "mine.jsonl", "ba" * 10)
    settings = config("custom", f"files:{path}", "classification", split_seed=-1)
    assert settings.finetune
    before = json.loads(json.dumps(read("custom", f"files:{path}", "classification").task.to_dict()))
    del before["positive_label"]  # which runs of earlier days do not have
    begun = Task.from_dict(before | {"labels": ["b", "a", "c"]})
    data = read_task(settings.finetune, settings.data, begun)
    assert data.task == begun and data.task.positive == 1
    assert [example.label for example in data.validation] == [1, 1]  # every tenth
    assert [example.label for example in data.train] == ([0, 1] * 4 + [0]) * 2


@pytest.mark.parametrize(("label", "positive"), [("", 1), ("a", 0), ("b", 1)])
def test_the_positive_class_can_be_chosen(tmp_path: Path, label: str, positive: int) -> None:
    path = write_reviews(tmp_path / "mine.jsonl", "ab" * 10)
    settings = config("custom", f"files:{path}", "classification")
    assert settings.finetune
    task = read_task(replace(settings.finetune, positive_label=label), settings.data).task
    assert (task.positive, task.positive_label) == (positive, label)


def test_a_positive_class_that_is_none_is_refused(tmp_path: Path) -> None:
    path = write_reviews(tmp_path / "mine.jsonl", "ab" * 10)
    settings = config("custom", f"files:{path}", "classification")
    assert settings.finetune
    chosen = replace(settings.finetune, positive_label="c")
    with pytest.raises(UserError, match=r"finetune.positive_label is 'c', expected one of 'a', 'b'"):
        read_task(chosen, settings.data)
    write_reviews(path, "abc" * 10)
    with pytest.raises(UserError, match=r"finetune.positive_label='c' goes with a task of two classes"):
        read_task(chosen, settings.data)


def test_an_embedded_task_is_read_from_demo_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_demo_examples(name: str, split: str) -> list[Example]:
        return [Example((name, split), 0)]

    monkeypatch.setattr(reading, "read_demo_examples", read_demo_examples)
    data = read("demo_entailment", "demo")
    assert data.task == find_task("demo_entailment")
    assert data.train == [Example(("demo_entailment", "train"), 0)]
    assert data.validation == [Example(("demo_entailment", "validation"), 0)]
    assert data.test == []
    with pytest.raises(UserError, match=r"data.source='tfds' has no demo_entailment.*set it to 'demo'"):
        read("demo_entailment", "tfds")


def test_dprd_is_for_zero_shot_only(tmp_path: Path) -> None:
    (tmp_path / "train.c.txt").write_text("The bee saw it.\nit\nThe bee,the sun\nthe sun\n\n" * 25)
    (tmp_path / "test.c.txt").write_text("Jo hit Al; he\nhe\nJo,Al\nJo\n\n")
    with pytest.raises(UserError, match=r"finetune.task='dprd' is zero-shot only"):
        read("dprd", f"files:{tmp_path}")
    data, task = config("cola", f"files:{tmp_path}").data, find_task("dprd")
    assert len(read_split(task, data, "train")) == 25
    test = [Example(("Jo hit Al; he", "he", "Jo", "Al"), 0)]
    assert read_split(task, data, "validation") == read_split(task, data, "test") == test


def test_the_diagnostics_are_for_a_run_of_mnli() -> None:
    with pytest.raises(UserError, match=r"finetune.task='ax' .*--zero_shot=ax on a run fine-tuned on mnli"):
        read("ax", "tfds")


@pytest.mark.parametrize("source", ["demo", "files:", "text:*.txt", "tfds:glue/rte", ""])
@pytest.mark.parametrize("task", ["rte", "custom"])
def test_another_form_of_source_is_refused_with_the_forms_told(task: str, source: str) -> None:
    with pytest.raises(UserError, match=rf"data.source='{source}'".replace("*", r"\*") + ".*'files:PATH'"):
        read(task, source, kind="classification")


def test_the_users_own_task_is_not_in_tfds() -> None:
    with pytest.raises(UserError, match=r"data.source='tfds' .*'files:PATH'"):
        read("custom", "tfds", kind="classification")


def test_an_unknown_task_and_an_empty_split_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean rte"):
        read("rtee", "tfds")
    write_rte(tmp_path / "train.tsv", 1)
    with pytest.raises(UserError, match="leaves no example of rte for validation; give it more"):
        read("rte", f"files:{tmp_path}")
