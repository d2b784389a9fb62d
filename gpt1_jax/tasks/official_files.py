"""The source `files:DIR`: the catalog's tasks from their official files, as they are distributed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.examples import make_examples
from gpt1_jax.tasks.passages import split_passage
from gpt1_jax.tasks.rows import Row, read_csv, read_json_file, read_jsonl, read_text, read_tsv
from gpt1_jax.tasks.squad_files import read_squad
from gpt1_jax.tasks.tagged_files import read_conll, read_conllu
from gpt1_jax.tasks.task import Columns, Example, Task, TaskSplit


def read_official_files(task: Task, directory: Path, split: TaskSplit) -> list[Example]:
    """Reads the examples of one split in the order of the files; returns none if the set has no file for the split.

    Args:
        task: a task of the catalog, neither `custom` nor embedded.
        directory: where the official files lie.
        split: which split to read.

    Raises:
        UserError: a training file is missing, or one of several files of another split; a file is empty or damaged, or
            holds a row that is not an example.
    """
    layout = _find_treebank(directory) if task.name == "ud_pos" else LAYOUTS[task.name]
    candidates = layout.get(split, ())
    examples, missing = [], []
    for group in dict.fromkeys(file.group for file in candidates):
        files = [file for file in candidates if file.group == group]
        found = next((file for file in files if (directory / file.path).exists()), None)
        if found:
            examples += _read(found, task, directory, split)
        elif not task.headline or group in (task.headline, ""):
            missing += files
    if missing and (examples or split == "train"):
        raise UserError(
            f"data.source='files:{directory}' has no {' or '.join(file.path for file in missing)}, the {split} "
            f"part of {task.name}; name the directory that its official files lie in."
        )
    return examples


@dataclass(frozen=True)
class File:
    """A file or folder of a set.

    Attributes:
        path: relative to the set's directory.
        read: yields the rows.
        columns: names the columns of the roles; None means the task's own columns.
        group: the group of the examples.
    """

    path: str
    read: Callable[[Path], Iterator[Row]] = read_tsv
    columns: Columns | None = None
    group: str = ""


def _read(file: File, task: Task, directory: Path, split: TaskSplit) -> list[Example]:
    path = directory / file.path
    examples = make_examples(task, file.read(path), split, file.columns, file.group)
    if not examples:
        raise UserError(f"data.source: {path} holds no examples of {task.name}; put the official file there.")
    return examples


# ── Formats of their own ──────────────────────────────────────────────────────────────────────────────────────────────


def _read_snli(path: Path) -> Iterator[Row]:
    """Yields SNLI's pairs, except those whose annotators did not agree on a label."""
    return (row for row in read_jsonl(path) if row.fields.get("gold_label") != "-")


def _read_snli_test(path: Path) -> Iterator[Row]:
    """Yields all of SNLI's pairs, so that every row gets a prediction; without agreement the label is unknown."""
    for row in read_jsonl(path):
        unknown = row.fields.get("gold_label") == "-"
        yield row._replace(fields={**row.fields, "gold_label": None}) if unknown else row


def _read_numbered(path: Path) -> Iterator[Row]:
    """Yields the records of a JSON object whose keys are numbers."""
    for number, record in read_json_file(path).items():
        where = f"entry {number} of {path}"
        if not isinstance(record, dict):
            raise UserError(f"data.source: {where} is {record!r:.80}, expected a JSON object; fix it.")
        yield Row(where, record)


def _read_race(folder: Path) -> Iterator[Row]:
    """Yields the questions of a folder of passages, each of which is a JSON object."""
    # Hidden files are left out: a Mac's archive has some, such as "._1.txt", for what its file system keeps.
    files = (path for path in folder.iterdir() if path.suffix.lower() == ".txt" and path.name[0] != ".")
    for path in sorted(files):
        yield from split_passage(str(path), read_json_file(path))


def _read_schemas(path: Path) -> Iterator[Row]:
    """Yields blocks of four lines: a sentence, its pronoun, two candidates with a comma between them, the right one."""
    lines = [line.strip() for line in read_text(path).rstrip().split("\n")]
    for start in range(0, len(lines), 5):
        where = f"the block at line {start + 1} of {path}"
        block, rest = lines[start : start + 4], lines[start + 4 : start + 5]
        if not all(block) or len(block) < 4 or any(rest):
            raise UserError(
                f"data.source: {where} is not four lines and an empty one (sentence, pronoun, candidates, "
                "answer); fix it."
            )
        sentence, pronoun, candidates, answer = block
        choices = [candidate.strip() for candidate in candidates.split(",")]
        yield Row(where, {"sentence": sentence, "pronoun": pronoun, "candidates": choices, "label": answer})


def _find_treebank(directory: Path) -> "Layout":
    """Returns the files of a treebank of Universal Dependencies; without a training part, dev trains and test judges.

    Raises:
        UserError: there are the files of several treebanks.
    """
    found: dict[str, list[Path]] = {
        part: sorted(directory.glob(f"*{part}.conllu")) for part in ("train", "dev", "test")
    }
    for part, paths in found.items():
        if len(paths) > 1:
            raise UserError(
                f"data.source='files:{directory}' has {' and '.join(path.name for path in paths):.200}, expected one "
                f"*-ud-{part}.conllu: name a directory with one treebank"
            )
    files = [(File(paths[0].name, read_conllu),) if paths else () for paths in found.values()]
    train, dev, test = files
    if train:
        return {"train": train, "validation": dev, "test": test}
    return {"train": dev or (File("en_ewt-ud-train.conllu", read_conllu),), "validation": test if dev else ()}


# ── The sets ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# The files of each split. If a group has several files, the first that exists is read. Groups other than the task's
# headline, such as "mismatched", may be missing. If there is no file for validation, a part of the training file is
# held out (see reading.py). "ppft_subset_train.json" is a published sample of the training file. A sample for
# development was published with it, but is not read: beside the whole training file it would leak.
Layout = dict[TaskSplit, tuple[File, ...]]

_GLUE: Layout = {"train": (File("train.tsv"),), "validation": (File("dev.tsv"),), "test": (File("test.tsv"),)}
_read_cola = partial(read_tsv, header=("source", "label", "mark", "sentence"))
_read_qqp = partial(read_tsv, spare=True)
_read_scitail = partial(read_tsv, header=("premise", "hypothesis", "label"))
_SAMPLE = File("ppft_subset_train.json", _read_numbered, {"premise": "text_a", "hypothesis": "text_b"})
_BY_ROLE: Columns = {}
# The diagnostics with their labels; without these, GLUE distributes them as diagnostic.tsv or AX.tsv.
_DIAGNOSTICS = File(
    "diagnostic-full.tsv",
    columns={"premise": "Premise", "hypothesis": "Hypothesis", "label": "Label"},
)


def _scitail(split: str) -> tuple[File, ...]:
    name = f"scitail_1.0_{split}.tsv"
    return (File(name, _read_scitail), File(f"tsv_format/{name}", _read_scitail))


def _race(*groups: str) -> Layout:
    """Returns the folders of the groups; the examples keep their group if there are several."""

    def folders(split: str) -> tuple[File, ...]:
        return tuple(
            File(f"{split}/{group}", _read_race, group=group if len(groups) > 1 else "") for group in groups
        )

    return {"train": folders("train"), "validation": folders("dev"), "test": folders("test")}


def _story_cloze(split: str) -> tuple[File, ...]:
    name = f"cloze_test_{split}__spring2016"
    return (File(f"{name} - cloze_test_ALL_{split}.csv", read_csv), File(f"{name}.csv", read_csv))


def _tagged(names: tuple[str, ...]) -> tuple[File, ...]:
    return tuple(File(name, read_conll) for name in names)


def _squad(version: str) -> Layout:
    def files(part: str, *names: str) -> tuple[File, ...]:
        return tuple(File(name, read_squad) for name in (f"{part}-{version}.json", *names))

    return {
        "train": files("train", "train.json"),
        "validation": files("dev", "validation.json", "dev.json"),
        "test": files("test", "test.json"),
    }


LAYOUTS: dict[str, Layout] = {
    "conll2003": {
        "train": _tagged(("eng.train", "train.txt")),
        "validation": _tagged(("eng.testa", "valid.txt", "dev.txt")),
        "test": _tagged(("eng.testb", "test.txt")),
    },
    "wnut17": {
        "train": _tagged(("wnut17train.conll", "train.conll", "train.txt")),
        "validation": _tagged(("emerging.dev.conll", "dev.conll", "valid.txt", "dev.txt")),
        "test": _tagged(("emerging.test.annotated", "test.conll", "test.txt")),
    },
    "squad": _squad("v1.1"),
    "squad2": _squad("v2.0"),
    "cola": {
        "train": (File("train.tsv", _read_cola),),
        "validation": (File("dev.tsv", _read_cola),),
        # Unlike the others, this file has a header.
        "test": (File("test.tsv"),),
    },
    "sst2": _GLUE,
    "mrpc": {
        "train": (File("train.tsv"), File("msr_paraphrase_train.txt")),
        "validation": (File("dev.tsv"),),
        "test": (File("test.tsv"), File("msr_paraphrase_test.txt")),
    },
    "qqp": {
        # A few questions of the official files contain line breaks.
        "train": (File("train.tsv", _read_qqp), File("train_subset.tsv", _read_qqp)),
        "validation": (File("dev.tsv", _read_qqp),),
        "test": (File("test.tsv"),),
    },
    "stsb": _GLUE,
    "mnli": {
        "train": (File("train.tsv"), _SAMPLE),
        "validation": tuple(
            file
            for group in ("matched", "mismatched")
            for file in (
                File(f"dev_{group}.tsv", group=group),
                File(f"dev_{group}.jsonl", read_jsonl, _BY_ROLE, group),
            )
        ),
        "test": tuple(File(f"test_{group}.tsv", group=group) for group in ("matched", "mismatched")),
    },
    "qnli": {**_GLUE, "train": (File("train.tsv"), _SAMPLE)},
    "rte": _GLUE,
    "wnli": _GLUE,
    "ax": {
        "train": (),
        "validation": (_DIAGNOSTICS,),
        "test": (File("diagnostic.tsv"), File("AX.tsv"), File("test.tsv"), _DIAGNOSTICS),
    },
    "snli": {
        "train": (File("snli_1.0_train.jsonl", _read_snli), _SAMPLE),
        "validation": (File("snli_1.0_dev.jsonl", _read_snli), File("dev.jsonl", read_jsonl, _BY_ROLE)),
        "test": (File("snli_1.0_test.jsonl", _read_snli_test),),
    },
    "scitail": {"train": _scitail("train"), "validation": _scitail("dev"), "test": _scitail("test")},
    "race": _race("middle", "high"),
    "race_middle": _race("middle"),
    "race_high": _race("high"),
    "story_cloze": {"train": _story_cloze("val"), "test": _story_cloze("test")},
    # For zero-shot only, so the test part may stand for validation.
    "dprd": {
        "train": (File("train.c.txt", _read_schemas),),
        "validation": (File("test.c.txt", _read_schemas),),
        "test": (File("test.c.txt", _read_schemas),),
    },
}
