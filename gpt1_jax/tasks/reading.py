"""Reads a task's examples: from TFDS, from official files, from the demo text, or from the user's own files."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt1_jax.config import DataConfig, FinetuneConfig
from gpt1_jax.disk.paths import expand_local
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.catalog import ZERO_SHOT_ONLY, find_task
from gpt1_jax.tasks.custom import read_custom, read_custom_validation
from gpt1_jax.tasks.demo_tasks import DEMO_TASKS, read_demo_examples
from gpt1_jax.tasks.examples import hold_out
from gpt1_jax.tasks.labels import find_class
from gpt1_jax.tasks.mixing import is_mixture, read_shares, repeat
from gpt1_jax.tasks.official_files import read_official_files
from gpt1_jax.tasks.task import Example, Task, TaskSplit
from gpt1_jax.tasks.tfds_sets import read_tfds


@dataclass(frozen=True)
class TaskData:
    """A task and its splits, each example once and in the order of its files.

    Attributes:
        task: the task; `custom` with the labels, scores or choices found in the data.
        train, validation: labeled examples, at least one.
        test: examples, maybe none, whose label is None if the files do not give it.
    """

    task: Task
    train: list[Example]
    validation: list[Example]
    test: list[Example]

    def splits(self) -> dict[str, list[Example]]:
        """The examples by the names of their splits."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def read_task(finetune: FinetuneConfig, data: DataConfig, begun: Task | None = None) -> TaskData:
    """Reads all splits of the task to fine-tune on.

    Args:
        finetune: the task and its positive label, and for `custom` also kind, columns and scores. `max_examples` is
            left to the caller.
        data: source, tfds_dir and split_seed.
        begun: the task of the run that is resumed, so that the labels of `custom` stay the same.

    Raises:
        UserError: the task or the source is unknown, or the task is for zero-shot only; a file or set is missing, empty
            or damaged; a row is not an example of the task.
    """
    task = find_task(finetune.task)
    if task.name in ZERO_SHOT_ONLY:
        run = "a run fine-tuned on mnli" if task.name == "ax" else "a pre-trained run"
        raise UserError(
            f"finetune.task={task.name!r} is zero-shot only; run gpt1_jax.evaluate with "
            f"--zero_shot={task.name} on {run}."
        )
    if task.name == "custom":
        task, splits = _read_custom(finetune, data, begun)
        train, validation, test = splits["train"], splits["validation"], splits.get("test", [])
    else:
        train, validation = _read_train_and_validation(task, data)
        test = _read(task, data, "test")
    for name, examples in (("train", train), ("validation", validation)):
        if not examples:
            raise UserError(
                f"data.source={data.source!r} leaves no example of {task.name} for {name}; give it more examples."
            )
    return TaskData(_choose_positive(task, finetune.positive_label), train, validation, test)


def read_validation(
    task: Task, finetune: FinetuneConfig, data: DataConfig, source: str | None
) -> list[Example]:
    """Reads what a fine-tuned run is scored on: the validation part of its own source, or of another one.

    If another source is a single file, all of it is scored. No source needs to have every class or the whole range of
    scores.

    Args:
        task: the run's task.
        finetune, data: the run's settings.
        source: tfds, demo, or files:PATH; None means the run's own.

    Raises:
        UserError: as in `read_task`.
    """
    other = data if source is None else replace(data, source=source)
    if task.name != "custom":
        examples = read_split(task, other, "validation")
    elif source is None:
        examples = _read_custom(finetune, data, task)[1]["validation"]
    else:
        examples = read_custom_validation(_directory(other), task)
    if not examples:
        raise UserError(
            f"--source={other.source} has no example of {task.name} to score; name a source that has one."
        )
    return examples


def _read_custom(
    finetune: FinetuneConfig, data: DataConfig, begun: Task | None
) -> tuple[Task, dict[TaskSplit, list[Example]]]:
    """Reads the user's task from one place, or for completion from several, each of which is a group."""
    if finetune.kind != "completion" or not is_mixture(data.source):
        return read_custom(finetune, _directory(data), data.split_seed, begun)
    task = begun
    mixed: dict[TaskSplit, list[Example]] = {"train": [], "validation": [], "test": []}
    for part in read_shares(data.source):
        task, splits = read_custom(finetune, part.path, data.split_seed, begun)
        for split, examples in splits.items():
            named = [example._replace(group=part.name) for example in examples]
            mixed[split] += repeat(named, part.weight, data.split_seed) if split == "train" else named
    assert task is not None
    return task, mixed


def is_training_file(data: DataConfig, source: str) -> bool:
    """Returns whether a source is the single file of `custom` that a run was fine-tuned on."""
    paths = [expand_local(text.removeprefix("files:"), "--source") for text in (data.source, source)]
    return paths[0].is_file() and paths[1].is_file() and paths[0].samefile(paths[1])


def read_split(task: Task, data: DataConfig, split: TaskSplit) -> list[Example]:
    """Reads one split of any task but `custom`; a test split that does not exist is empty.

    `dprd` can be read too; its validation split is its test split. So can `ax`, whose validation split has the labels.

    Raises:
        UserError: as in `read_task`.
    """
    if split == "test":
        return _read(task, data, split)
    if split == "validation" and (examples := _read(task, data, split)):
        return examples
    train, validation = _read_train_and_validation(task, data)
    return train if split == "train" else validation


def _read_train_and_validation(task: Task, data: DataConfig) -> tuple[list[Example], list[Example]]:
    """Reads both splits; if the set has no validation split, a part of the training split is held out.

    For Story Cloze, whose official validation file the authors train on, it is the part that they held out. For other
    tasks it is about every 20th example, see `hold_out`.
    """
    train, validation = _read(task, data, "train"), _read(task, data, "validation")
    if validation:
        return train, validation
    if task.name == "story_cloze" and len(train) > 1:
        # Imported late: few tasks need it, and it takes a second.
        from sklearn.model_selection import train_test_split

        # A fifth is 374 of the 1,871 stories.
        fifth = max(1, len(train) // 5)
        parts: Any = train_test_split(train, test_size=fifth, random_state=3535999445)
        return parts[0], parts[1]
    train, validation = hold_out(task, train, 20, data.split_seed)
    return train, [example._replace(group=example.group or task.headline) for example in validation]


def _choose_positive(task: Task, label: str) -> Task:
    """Returns the task with the class whose F1 counts, as finetune.positive_label names it; "" means the second."""
    if not label:
        return task
    if task.counted_class is None:
        raise UserError(
            f"finetune.positive_label={label!r:.80} goes with a task of two classes that is judged by F1, and "
            f"{task.name} is not; leave it out."
        )
    try:
        return replace(task, positive_label=task.labels[find_class(label, task.labels)])
    except ValueError as error:
        raise UserError(f"finetune.positive_label {error}; choose one of them.") from error


def _read(task: Task, data: DataConfig, split: TaskSplit) -> list[Example]:
    """Reads a split from its source; returns no examples if the source has no such split."""
    if task.name in DEMO_TASKS:
        if data.source != "demo":
            raise UserError(
                f"data.source={data.source!r} has no {task.name}, an embedded task; set it to 'demo'."
            )
        return [] if split == "test" else read_demo_examples(task.name, split)
    if data.source == "tfds":
        return read_tfds(task, data.tfds_dir, split)
    return read_official_files(task, _directory(data), split)


def _directory(data: DataConfig) -> Path:
    if is_mixture(data.source):
        raise UserError(
            f"data.source={data.source!r:.200} names several files or a weight, which only training with "
            "finetune.kind=completion takes; name one file or one directory."
        )
    kind, _, path = data.source.partition(":")
    if kind != "files" or not path:
        raise UserError(
            f"data.source={data.source!r} is not a source of this task; set it to 'files:PATH' of its files, "
            "'tfds' for a published data set, or 'demo' for an embedded task."
        )
    return expand_local(path, "data.source=files")
