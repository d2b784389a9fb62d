"""The task `custom`: a user's own .jsonl, .csv or .tsv, its labels or choices found in the data."""

import math
from dataclasses import replace
from pathlib import Path

from gpt1_jax.config import FinetuneConfig
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.examples import hold_out, make_examples, several
from gpt1_jax.tasks.rows import Row, read_csv, read_jsonl, read_tsv
from gpt1_jax.tasks.task import ROLES, Columns, Example, Kind, Split, Task

_READERS = {".jsonl": read_jsonl, ".csv": read_csv, ".tsv": read_tsv}
_FORMS = "{jsonl,csv,tsv}"


def read_custom(finetune: FinetuneConfig, path: Path) -> tuple[Task, dict[Split, list[Example]]]:
    """The user's task and its examples.

    The columns have the names of ROLES[finetune.kind], and `label`, unless `finetune.columns` renames them:
    "premise=COLUMN,label=COLUMN", or several columns that are joined, or are the choices, "choices=A+B". Labels
    are the distinct values in training, sorted; of similarity, scores where they are numbers with a fraction or
    `finetune.scores` is regression. The label of a choice is its number, from 0, or its text.

    Args:
        finetune: kind, columns, scores.
        path: a directory with a file train, one validation and maybe one test; or a file, of which every 10th
            example is held out.

    Raises:
        UserError: the config has no kind or unknown columns, a file is missing or ambiguous, or a row is no
            example of the task.
    """
    if finetune.kind is None:
        raise UserError(f"finetune.kind is not set; task custom needs one of {', '.join(ROLES)}.")
    columns = _parse_columns(finetune.columns, finetune.kind)
    rows: dict[Split, list[Row]] = {split: _read(file) for split, file in _find_files(path).items()}
    for split, table in rows.items():
        _check_columns(table, split, columns, finetune.kind)
    task = _describe(finetune, finetune.kind, columns, rows)
    examples: dict[Split, list[Example]] = {
        split: make_examples(task, table, split) for split, table in rows.items()
    }
    if "validation" not in examples:
        examples["train"], examples["validation"] = hold_out(examples["train"], 10)
    return task, examples


def _parse_columns(text: str, kind: Kind) -> Columns:
    columns = {}
    for entry in filter(None, text.split(",")):
        role, _, names = (part.strip() for part in entry.partition("="))
        if role not in (*ROLES[kind], "label") or not names or (role == "label" and "+" in names):
            raise UserError(
                f"finetune.columns={text!r} has the entry {entry.strip()!r}; expected ROLE=COLUMN with a ROLE of "
                f"{kind}, {', '.join(ROLES[kind])} or label (several columns for a text or the choices: A+B)."
            )
        columns[role] = tuple(names.split("+")) if "+" in names else names
    return columns


def _find_files(path: Path) -> dict[Split, Path]:
    if path.is_file():
        return {"train": path}
    files: dict[Split, Path] = {}
    splits: tuple[Split, ...] = ("train", "validation", "test")
    for split in splits:
        found = [file for suffix in _READERS if (file := path / f"{split}{suffix}").is_file()]
        if len(found) > 1 or (not found and split != "test"):
            raise UserError(
                f"data.source='files:{path}' has {' and '.join(file.name for file in found) or 'no file'} for "
                f"{split}; expected one {split}.{_FORMS} in a directory, or a single such file."
            )
        if found:
            files[split] = found[0]
    return files


def _read(file: Path) -> list[Row]:
    if file.suffix not in _READERS:
        raise UserError(f"data.source: {file} is not named *.{_FORMS}; convert or rename it.")
    rows = list(_READERS[file.suffix](file))
    if not rows:
        raise UserError(f"data.source: {file} holds no examples; put some there.")
    return rows


def _check_columns(rows: list[Row], split: Split, columns: Columns, kind: Kind) -> None:
    """Tells of a column that is not there how to name another; rows that differ from the first fail later."""
    where, fields = rows[0]
    for role in (*ROLES[kind], "label"):
        optional = (split, role) == ("test", "label") or (role == "question" and role not in columns)
        for name in several(columns.get(role, role)):
            if name not in fields and not optional:
                raise UserError(
                    f"data.source: {where} has no column {name!r} but {', '.join(map(repr, fields))}; name the "
                    f"column of the {role} with finetune.columns={role}=COLUMN."
                )


def _describe(finetune: FinetuneConfig, kind: Kind, columns: Columns, rows: dict[Split, list[Row]]) -> Task:
    """The task, with the labels, the range of scores or the number of choices that its data has."""
    task = Task("custom", kind, ("accuracy",), columns=columns)
    if kind == "choice":
        names = columns.get("choices", "choices")
        where, fields = rows["train"][0]
        choices = fields[names] if isinstance(names, str) else names
        if not isinstance(choices, list | tuple) or len(choices) < 2:
            raise UserError(
                f"data.source: {where} has the choices {choices!r:.80}; expected a list of two texts or more, or "
                "name their columns with finetune.columns=choices=A+B."
            )
        return replace(task, choices=len(choices))
    label = several(columns.get("label", "label"))[0]
    labels = _distinct(label, rows["train"])
    if kind == "similarity" and (finetune.scores == "regression" or _are_scores(labels)):
        scores = [*filter(math.isfinite, map(_number, _distinct(label, *rows.values())))]
        low, high = math.floor(min(scores, default=0)), math.ceil(max(scores, default=0))
        task = replace(task, metrics=("pearson", "spearman"), score_range=(low, high))
    else:
        task = replace(task, metrics=("accuracy", "f1") if len(labels) == 2 else ("accuracy",), labels=labels)
    if len(labels) < 2:
        raise UserError(
            f"data.source: {label!r} is {' and '.join(labels) or 'no text or number'} in all rows of training; "
            "expected at least two labels or scores."
        )
    return task


def _distinct(label: str, *tables: list[Row]) -> tuple[str, ...]:
    """The labels as texts, sorted; what is none, make_examples names by its row."""
    values = (row.fields.get(label) for table in tables for row in table)
    texts = {str(value).strip() for value in values if isinstance(value, str | int | float)}
    return tuple(sorted(texts - {""}))


def _are_scores(labels: tuple[str, ...]) -> bool:
    return all(map(math.isfinite, map(_number, labels))) and any(_number(text) % 1 for text in labels)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
