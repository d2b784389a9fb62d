"""The source `tfds` of the catalog's tasks: TFDS sets, read without TensorFlow."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gpt1_jax.disk.inputs import decode
from gpt1_jax.disk.paths import expand
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.examples import make_examples
from gpt1_jax.tasks.passages import split_passage
from gpt1_jax.tasks.preparing import prepare_set
from gpt1_jax.tasks.rows import Row
from gpt1_jax.tasks.task import Columns, Example, Task, TaskSplit


def read_tfds(task: Task, tfds_dir: str | None, split: TaskSplit) -> list[Example]:
    """Reads the examples of one split, in the order of their numbers; returns none if the set has no such split.

    If a set is not prepared yet, it is prepared from archives in `downloads/manual` of the directory, or from archives
    that TFDS downloads.

    Args:
        task: a task of the catalog, neither `custom` nor embedded.
        tfds_dir: the directory of prepared sets; None means TFDS's default.
        split: which split to read.

    Raises:
        UserError: the set can be neither read nor prepared, or a record is not an example of the task.
    """
    kept = SETS.get(task.name)
    if kept is None:
        raise UserError(
            f"data.source='tfds' has no {task.name}; name the directory of its official files with "
            "data.source=files:DIR."
        )
    examples = []
    for part in kept.parts.get(split, ()):
        rows = _read(task, open_set(part.name, kept.archives, tfds_dir), part.split)
        examples += make_examples(task, rows, split, kept.columns, part.group)
    return examples


def open_set(name: str, archives: tuple[str, ...], tfds_dir: str | None) -> Any:
    """Returns the builder of a set and prepares the set if necessary."""
    # Imported late: it takes half a second, which other sources need not pay.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import constants, read_only_builder

    directory = expand(tfds_dir or constants.DATA_DIR, "data.tfds_dir")
    try:
        return read_only_builder.builder_from_files(name, data_dir=directory)
    except (tfds.core.DatasetNotFoundError, ValueError):
        return prepare_set(name, archives, directory)


def _read(task: Task, builder: Any, split: str) -> Iterator[Row]:
    name = f"{builder.info.full_name} ({split})"
    try:
        source = builder.as_data_source(split)
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"data.source='tfds': {name} in {builder.data_dir} has no such split or not TFDS's format array_record "
            f"({error}); delete it, and it will be prepared again."
        ) from error
    records = [_decode(record, name) for record in source.__getitems__(range(len(source)))]
    # TFDS shuffles the examples; idx restores GLUE's order.
    records.sort(key=lambda record: record.get("idx", 0))
    # TFDS writes -1 for every label of a split without labels. A few -1 among labels are SNLI's undecided pairs; a test
    # part keeps them, so that every row gets a prediction.
    labeled = [record for record in records if record.get("label") != -1]
    for number, record in enumerate(records if split.startswith("test") else labeled or records):
        where = f"example {record.get('idx', number)} of {name}"
        if record.get("label") == -1:
            del record["label"]
        elif task.labels:
            # TFDS numbers the labels in the same order.
            record["label"] = task.labels[record["label"]]
        yield from split_passage(where, record) if "questions" in record else [Row(where, record)]


def _decode(value: Any, where: str) -> Any:
    """Turns TFDS's bytes into text and its arrays into lists."""
    if isinstance(value, bytes):
        return decode(value, f"data.source='tfds': an example of {where}")
    if isinstance(value, dict):
        return {name: _decode(inner, where) for name, inner in value.items()}
    return value if isinstance(value, int | float | str) else [_decode(inner, where) for inner in value]


# ── The sets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class SetSplit(NamedTuple):
    """A split of a TFDS set, and the group of its examples."""

    name: str
    split: str
    group: str = ""


@dataclass(frozen=True)
class TfdsTask:
    """Where TFDS keeps a task.

    Attributes:
        parts: what each of the task's splits consists of. If there is none for validation, a part of the training split
            is held out (see reading.py).
        archives: the files that TFDS downloads.
        columns: the names of the columns of the roles.
    """

    parts: Mapping[TaskSplit, tuple[SetSplit, ...]]
    archives: tuple[str, ...]
    columns: Columns = field(default_factory=dict)


def _parts(name: str) -> dict[TaskSplit, tuple[SetSplit, ...]]:
    splits: tuple[TaskSplit, ...] = ("train", "validation", "test")
    return {split: (SetSplit(name, split),) for split in splits}


def _race(*groups: str) -> TfdsTask:
    """Returns the sets of the groups; the examples keep their group if there are several."""

    def parts(split: str) -> tuple[SetSplit, ...]:
        return tuple(SetSplit(f"race/{group}", split, group if len(groups) > 1 else "") for group in groups)

    return TfdsTask(
        {"train": parts("train"), "validation": parts("dev"), "test": parts("test")},
        ("RACE.tar.gz",),
        {"context": "article", "choices": "options", "label": "answer"},
    )


_MNLI = ("matched", "mismatched")
_DPR = "definite_pronoun_resolution"

SETS: dict[str, TfdsTask] = {
    "cola": TfdsTask(_parts("glue/cola"), ("CoLA.zip",), {"text": "sentence"}),
    "sst2": TfdsTask(_parts("glue/sst2"), ("SST-2.zip",), {"text": "sentence"}),
    "mrpc": TfdsTask(
        _parts("glue/mrpc"),
        ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "data_mrpc_dev_ids.tsv"),
    ),
    "qqp": TfdsTask(_parts("glue/qqp"), ("QQP.zip",), {"sentence1": "question1", "sentence2": "question2"}),
    "stsb": TfdsTask(_parts("glue/stsb"), ("STS-B.zip",)),
    "mnli": TfdsTask(
        {
            "train": (SetSplit("glue/mnli", "train"),),
            "validation": tuple(SetSplit("glue/mnli", f"validation_{group}", group) for group in _MNLI),
            "test": tuple(SetSplit("glue/mnli", f"test_{group}", group) for group in _MNLI),
        },
        ("MNLI.zip",),
    ),
    "qnli": TfdsTask(_parts("glue/qnli"), ("QNLIv2.zip",), {"premise": "question", "hypothesis": "sentence"}),
    "rte": TfdsTask(_parts("glue/rte"), ("RTE.zip",), {"premise": "sentence1", "hypothesis": "sentence2"}),
    "wnli": TfdsTask(_parts("glue/wnli"), ("WNLI.zip",), {"premise": "sentence1", "hypothesis": "sentence2"}),
    "ax": TfdsTask({"test": (SetSplit("glue/ax", "test"),)}, ("tsvsWithoutLabels_AX.tsv",)),
    "snli": TfdsTask(_parts("snli"), ("snli_1.0.zip",)),
    "scitail": TfdsTask(_parts("sci_tail"), ("SciTailV1.1.zip",)),
    "race": _race("middle", "high"),
    "race_middle": _race("middle"),
    "race_high": _race("high"),
    "story_cloze": TfdsTask(
        {
            "train": (SetSplit("story_cloze/2016", "validation"),),
            "test": (SetSplit("story_cloze/2016", "test"),),
        },
        ("cloze_test_val__spring2016.csv", "cloze_test_test__spring2016.csv"),
        {"choices": "endings"},
    ),
    # For zero-shot only, so the test part may stand for validation.
    "dprd": TfdsTask(
        {
            "train": (SetSplit(_DPR, "train"),),
            "validation": (SetSplit(_DPR, "test"),),
            "test": (SetSplit(_DPR, "test"),),
        },
        ("train.c.txt", "test.c.txt"),
        {"context": "sentence", "question": "pronoun", "choices": "candidates"},
    ),
}
