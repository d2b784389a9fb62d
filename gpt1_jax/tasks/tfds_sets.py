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
from gpt1_jax.tasks.task import Columns, Example, Split, Task


def read_tfds(task: Task, tfds_dir: str | None, split: Split) -> list[Example]:
    """The examples of one split, in the order of their numbers; none where the set has no such split.

    A set that is not prepared yet is prepared, from archives in `downloads/manual` of the directory or else by
    downloading them.

    Args:
        task: a task of the catalog, not `custom` or embedded.
        tfds_dir: the directory of prepared sets; None is TFDS's own default.
        split: which one.

    Raises:
        UserError: the set can be neither read nor prepared, or holds an example that is none of the task.
    """
    kept = SETS[task.name]
    examples = []
    for part in kept.parts.get(split, ()):
        rows = _read(task, _open(part.name, kept.archives, tfds_dir), part.split)
        examples += make_examples(task, rows, split, kept.columns, part.group)
    return examples


def _open(name: str, archives: tuple[str, ...], tfds_dir: str | None) -> Any:
    """The builder of a set that is prepared, now at the latest."""
    import tensorflow_datasets as tfds  # late: it takes half a second that other sources need not pay
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
            f"({error}): delete it, and it is prepared again"
        ) from error
    records = [_decode(record, name) for record in source.__getitems__(range(len(source)))]
    records.sort(key=lambda record: record.get("idx", 0))  # GLUE's own order, which TFDS shuffles
    # A split has labels or it has none, which TFDS writes as -1: the few among others are SNLI's undecided, which a
    # test part keeps, so that every row has its prediction.
    labeled = [record for record in records if record.get("label") != -1]
    for number, record in enumerate(records if split.startswith("test") else labeled or records):
        where = f"example {record.get('idx', number)} of {name}"
        if record.get("label") == -1:
            del record["label"]
        elif task.labels:
            record["label"] = task.labels[record["label"]]  # TFDS numbers them in the same order
        yield from split_passage(where, record) if "questions" in record else [Row(where, record)]


def _decode(value: Any, where: str) -> Any:
    """Texts of the bytes that TFDS gives, lists of its arrays."""
    if isinstance(value, bytes):
        return decode(value, f"data.source='tfds': an example of {where}")
    if isinstance(value, dict):
        return {name: _decode(inner, where) for name, inner in value.items()}
    return value if isinstance(value, int | float | str) else [_decode(inner, where) for inner in value]


# ----------------------------------------------------------------------------------------- the sets


class Part(NamedTuple):
    """A split of a TFDS set, and the group of its examples."""

    name: str
    split: str
    group: str = ""


@dataclass(frozen=True)
class TfdsSet:
    """Where TFDS keeps a task.

    Fields:
        parts: what each of the task's splits is made of. Without one for validation, a part of the training
            split is held out (see reading.py).
        archives: the files that TFDS downloads.
        columns: where the roles are found.
    """

    parts: Mapping[Split, tuple[Part, ...]]
    archives: tuple[str, ...]
    columns: Columns = field(default_factory=dict)


def _parts(name: str) -> dict[Split, tuple[Part, ...]]:
    splits: tuple[Split, ...] = ("train", "validation", "test")
    return {split: (Part(name, split),) for split in splits}


def _race(*groups: str) -> TfdsSet:
    """The sets of all groups, which are told apart where there are several."""

    def parts(split: str) -> tuple[Part, ...]:
        return tuple(Part(f"race/{group}", split, group if len(groups) > 1 else "") for group in groups)

    return TfdsSet(
        {"train": parts("train"), "validation": parts("dev"), "test": parts("test")},
        ("RACE.tar.gz",),
        {"context": "article", "choices": "options", "label": "answer"},
    )


_MNLI = ("matched", "mismatched")
_DPR = "definite_pronoun_resolution"

SETS: dict[str, TfdsSet] = {
    "cola": TfdsSet(_parts("glue/cola"), ("CoLA.zip",), {"text": "sentence"}),
    "sst2": TfdsSet(_parts("glue/sst2"), ("SST-2.zip",), {"text": "sentence"}),
    "mrpc": TfdsSet(
        _parts("glue/mrpc"),
        ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "data_mrpc_dev_ids.tsv"),
    ),
    "qqp": TfdsSet(_parts("glue/qqp"), ("QQP.zip",), {"sentence1": "question1", "sentence2": "question2"}),
    "stsb": TfdsSet(_parts("glue/stsb"), ("STS-B.zip",)),
    "mnli": TfdsSet(
        {
            "train": (Part("glue/mnli", "train"),),
            "validation": tuple(Part("glue/mnli", f"validation_{group}", group) for group in _MNLI),
            "test": tuple(Part("glue/mnli", f"test_{group}", group) for group in _MNLI),
        },
        ("MNLI.zip",),
    ),
    "qnli": TfdsSet(_parts("glue/qnli"), ("QNLIv2.zip",), {"premise": "question", "hypothesis": "sentence"}),
    "rte": TfdsSet(_parts("glue/rte"), ("RTE.zip",), {"premise": "sentence1", "hypothesis": "sentence2"}),
    "snli": TfdsSet(_parts("snli"), ("snli_1.0.zip",)),
    "scitail": TfdsSet(_parts("sci_tail"), ("SciTailV1.1.zip",)),
    "race": _race("middle", "high"),
    "race_middle": _race("middle"),
    "race_high": _race("high"),
    "story_cloze": TfdsSet(
        {
            "train": (Part("story_cloze/2016", "validation"),),
            "test": (Part("story_cloze/2016", "test"),),
        },
        ("cloze_test_val__spring2016.csv", "cloze_test_test__spring2016.csv"),
        {"choices": "endings"},
    ),
    "dprd": TfdsSet(  # zero-shot only, so that its test part may stand for validation
        {
            "train": (Part(_DPR, "train"),),
            "validation": (Part(_DPR, "test"),),
            "test": (Part(_DPR, "test"),),
        },
        ("train.c.txt", "test.c.txt"),
        {"context": "sentence", "question": "pronoun", "choices": "candidates"},
    ),
}
