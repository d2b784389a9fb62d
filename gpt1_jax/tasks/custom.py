"""The task `custom`: a user's own .jsonl, .csv or .tsv, whose labels or choices are found in the data."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gpt1_jax.config import FinetuneConfig
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.answer_scores import ROUGE, has_rouge
from gpt1_jax.tasks.examples import hold_out, make_examples, several, spell_cell
from gpt1_jax.tasks.labels import (
    MOST_CLASSES,
    are_scores,
    check_class_name,
    distinct_classes,
    find_score,
    spell_json,
)
from gpt1_jax.tasks.rows import Reader, Readers, Row, find_reader, read_csv, read_jsonl, read_tsv
from gpt1_jax.tasks.squad_files import read_squad
from gpt1_jax.tasks.structured import spell_tags
from gpt1_jax.tasks.tagged_files import read_conll, read_conllu
from gpt1_jax.tasks.tagging import has_entities
from gpt1_jax.tasks.task import ROLES, Columns, Example, Kind, Task, TaskSplit, label_name
from gpt1_jax.wording import counted

_MOST_TAGS = 1_000
_TABLES: Readers = {".jsonl": read_jsonl, ".csv": read_csv, ".tsv": read_tsv}
_COLUMNS: Readers = dict.fromkeys((".conll", ".iob", ".iob2", ".bio", ".tsv", ".txt"), read_conll)
# Roles of one column each.
_NEVER_JOINED = {"words", *map(label_name, ROLES)}
# The readers of a kind's files, by their endings; those of the whole kinds and of completion read tables.
_READERS: dict[Kind, Readers] = {
    "tagging": {".jsonl": read_jsonl, ".conllu": read_conllu, **_COLUMNS},
    "span": {".jsonl": read_jsonl, ".json": read_squad},
}


def read_custom(
    finetune: FinetuneConfig, path: Path, split_seed: int, begun: Task | None = None
) -> tuple[Task, dict[TaskSplit, list[Example]]]:
    """Reads the user's task and its examples.

    The columns are named after ROLES[finetune.kind], and `label_name`, unless `finetune.columns` renames them as in
    "premise=COLUMN,label=COLUMN". Several columns, as in "choices=A+B", are joined, or they are the choices; but if one
    column has the name A+B, that one is meant. Labels are the distinct values in training, sorted. For similarity they
    are scores if `finetune.scores` is regression, or if most are numbers and at least one has a fraction. The label of
    a choice is its number, from 0, or its text.

    Args:
        finetune: kind, columns and scores.
        path: a directory with the files train, validation and, optionally, test; or one file, of which about every 10th
            example is held out.
        split_seed: chooses these examples, see `hold_out`.
        begun: the task of the run that is resumed, whose labels, scores or choices stay the same.

    Raises:
        UserError: the config has no kind or has unknown columns, a file is missing or ambiguous, or a row is not an
            example of the task.
    """
    kind, named = _read_settings(finetune)
    rows: dict[TaskSplit, list[Row]] = {
        split: _read(file, kind) for split, file in _find_files(path, kind).items()
    }
    columns = begun.columns if begun else _split_names(named, rows["train"][0].fields)
    for split, table in rows.items():
        _check_columns(table, split, columns, kind)
    task = begun or _describe(finetune, kind, columns, rows["train"])
    examples: dict[TaskSplit, list[Example]] = {
        split: make_examples(task, table, split) for split, table in rows.items()
    }
    if kind == "span" and not begun:
        task = replace(task, no_answer=any(example.label == () for example in examples["train"]))
    if "validation" not in examples:
        examples["train"], examples["validation"] = hold_out(task, examples["train"], 10, split_seed)
    return task, examples


def read_custom_validation(path: Path, task: Task) -> list[Example]:
    """Reads the validation part of a directory, or all of a file, as examples of a known task.

    Raises:
        UserError: as in `read_custom`.
    """
    file = path if not path.is_dir() else _find_files(path, task.kind, ("validation",))["validation"]
    rows = _read(file, task.kind)
    _check_columns(rows, "validation", task.columns, task.kind)
    return make_examples(task, rows, "validation")


def _read_settings(finetune: FinetuneConfig) -> tuple[Kind, dict[str, str]]:
    """Returns the kind, and the names of the columns of each role."""
    if finetune.kind is None:
        raise UserError(
            f"config.finetune.kind is missing; set one of {', '.join(ROLES)}, which task custom needs."
        )
    return finetune.kind, _parse_columns(finetune.columns, finetune.kind)


def _parse_columns(text: str, kind: Kind) -> dict[str, str]:
    columns: dict[str, str] = {}
    for entry in filter(None, text.split(",")):
        role, _, names = (part.strip() for part in entry.partition("="))
        if role not in (*ROLES[kind], label_name(kind)) or not names:
            raise UserError(
                f"finetune.columns={text!r} has the entry {entry.strip()!r}; write ROLE=COLUMN with a ROLE of "
                f"{kind}, {', '.join(ROLES[kind])} or {label_name(kind)} (several columns for a text or the choices: "
                "A+B)."
            )
        if role in columns:
            raise UserError(
                f"finetune.columns={text!r} names the column of {role} twice; leave one out, or join them with A+B."
            )
        columns[role] = names
    return columns


def _split_names(named: Mapping[str, str], fields: Mapping[str, object]) -> Columns:
    """Returns the columns that are named: A+B is one column if the first row has it, and otherwise two."""
    joined = {role: names.split("+") for role, names in named.items() if "+" in names and names not in fields}
    for role in joined.keys() & _NEVER_JOINED:
        raise UserError(
            f"finetune.columns has {role}={named[role]}, which is not a column of the data; its columns are "
            f"{', '.join(map(repr, fields)):.300}; name one of these."
        )
    return {**named, **{role: tuple(names) for role, names in joined.items()}}


def _find_files(
    path: Path, kind: Kind, needed: tuple[TaskSplit, ...] = ("train", "validation")
) -> dict[TaskSplit, Path]:
    if not path.is_dir():
        return {"train": path}
    files: dict[TaskSplit, Path] = {}
    splits: tuple[TaskSplit, ...] = ("train", "validation", "test")
    for split in splits:
        found = sorted(
            file
            for file in path.iterdir()
            if file.name.partition(".")[0] == split and _find_reader(file, kind) and file.is_file()
        )
        if len(found) > 1 or (not found and split in needed):
            raise UserError(
                f"data.source='files:{path}' has {' and '.join(file.name for file in found) or 'no file'} for "
                f"{split}; name a directory with one {split}.{_forms(kind)}, or a single such file."
            )
        if found:
            files[split] = found[0]
    return files


def _find_reader(path: Path, kind: Kind) -> Reader | None:
    return find_reader(path, _READERS.get(kind, _TABLES))


def _forms(kind: Kind) -> str:
    return f"{{{','.join(ending[1:] for ending in _READERS.get(kind, _TABLES))}}}"


def _read(file: Path, kind: Kind) -> list[Row]:
    reader = _find_reader(file, kind)
    if reader is None and not file.exists():
        raise UserError(f"data.source: {file} does not exist; name a directory, or a file *.{_forms(kind)}.")
    if reader is None:
        raise UserError(f"data.source: {file} is not named *.{_forms(kind)}; convert or rename it.")
    rows = list(reader(file))
    if not rows:
        raise UserError(f"data.source: {file} holds no examples; put some there.")
    return rows


def _check_columns(rows: list[Row], split: TaskSplit, columns: Columns, kind: Kind) -> None:
    """Checks that the first row has all columns; rows that differ from it fail later.

    Raises:
        UserError: a column is missing; the error says how to name another.
    """
    where, fields, _ = rows[0]
    for role in (*ROLES[kind], label_name(kind)):
        optional = (split, role) == ("test", label_name(kind)) or (
            kind == "choice" and role == "question" and role not in columns
        )
        # A text to tag may come uncut, and an answer by its shorter name.
        other = {"words": "text", "answers": "answer"}.get(role) if role not in columns else None
        for name in several(columns.get(role, role)):
            if name not in fields and other not in fields and not optional:
                raise UserError(
                    f"data.source: {where} has no column {name!r} but {', '.join(map(repr, fields))}; name the "
                    f"column of the {role} with finetune.columns={role}=COLUMN."
                )


def _describe(finetune: FinetuneConfig, kind: Kind, columns: Columns, rows: list[Row]) -> Task:
    """Returns the task with the labels, the range of scores or the number of choices found in the training rows."""
    task = Task("custom", kind, ("accuracy",), columns=columns)
    if kind == "tagging":
        tags = _distinct_tags(rows, str(columns.get("tags", "tags")))
        return replace(task, metrics=("f1", "accuracy") if has_entities(tags) else ("accuracy",), labels=tags)
    if kind == "span":
        return replace(task, metrics=("f1", "exact_match"))
    if kind == "completion":
        return replace(task, metrics=(*reversed(ROUGE), "exact_match") if has_rouge() else ("exact_match",))
    if kind == "choice":
        names = columns.get("choices", "choices")
        where, fields, _ = rows[0]
        choices = fields[names] if isinstance(names, str) else names
        if not isinstance(choices, list | tuple) or len(choices) < 2:
            raise UserError(
                f"data.source: {where} has the choices {spell_json(choices)}; write a list of two texts or more, or "
                "name their columns with finetune.columns=choices=A+B."
            )
        return replace(task, choices=len(choices))
    label = several(columns.get("label", "label"))[0]
    labels = [_spell(row, label) for row in rows]
    classes = distinct_classes(labels)
    if len(classes) < 2:
        raise UserError(
            f"data.source: {label!r} is {labels[0]!r:.80} in all rows of training; give at least two labels or "
            "scores."
        )
    if kind == "similarity" and (finetune.scores == "regression" or are_scores(labels)):
        return replace(task, metrics=("pearson", "spearman"), score_range=_score_range(finetune, rows, label))
    for row, name in zip(rows, labels, strict=True):
        try:
            check_class_name(name)
        except ValueError as error:
            raise _wrong_label(row, label, error) from error
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"data.source: {label!r} has {counted(len(classes), 'different label')} in training, expected at most "
            f"{MOST_CLASSES:,}; name the column of the classes with finetune.columns=label=COLUMN."
        )
    return replace(task, metrics=("accuracy", "f1") if len(classes) == 2 else ("accuracy",), labels=classes)


def _distinct_tags(rows: list[Row], name: str) -> tuple[str, ...]:
    """Returns the tags of the training rows, sorted."""
    found: set[str] = set()
    for row in rows:
        try:
            tags = [*spell_tags(row, name)]
            for tag in tags:
                check_class_name(tag)
        except ValueError as error:
            raise UserError(f"data.source: {row.where} is not an example of custom: {error}.") from error
        found.update(tags)
    if not 2 <= len(found) <= _MOST_TAGS:
        raise UserError(
            f"data.source: {name!r} has {counted(len(found), 'different tag')} in training, expected 2 to "
            f"{_MOST_TAGS:,}; name the column of the tags with finetune.columns=tags=COLUMN."
        )
    return distinct_classes(found)


def _score_range(finetune: FinetuneConfig, rows: list[Row], label: str) -> tuple[int, int]:
    """Returns the whole numbers around the scores of training."""
    scores = []
    for row in rows:
        scores.append(find_score(text := _spell(row, label)))
        if math.isnan(scores[-1]):
            raise _wrong_label(
                row, label, ValueError(f"is {text!r:.80}, expected a score such as 3.5, as others are")
            )
    low, high = math.floor(min(scores)), math.ceil(max(scores))
    if finetune.scores == "classes" and high - low >= MOST_CLASSES:
        raise UserError(
            f"finetune.scores=classes would make a class of each of the {high - low + 1:.3g} whole scores from "
            f"{low:.6g} to {high:.6g} that {label!r} has, expected at most {MOST_CLASSES:,}; set "
            "finetune.scores=regression, or scale them."
        )
    return low, high


def _spell(row: Row, label: str) -> str:
    """Returns the label of a training row, which must have one."""
    try:
        text = spell_cell(row, label, "train")
    except ValueError as error:
        raise UserError(f"data.source: {row.where} is not an example of custom: {error}.") from error
    assert text is not None
    return text


def _wrong_label(row: Row, label: str, error: ValueError) -> UserError:
    return UserError(f"data.source: {row.where} is not an example of custom: {label!r} {error}.")
