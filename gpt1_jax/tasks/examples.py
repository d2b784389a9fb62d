"""From a record, wherever it comes from, to an example."""

from collections.abc import Iterable, Mapping
from typing import Any

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.rows import Row
from gpt1_jax.tasks.task import ROLES, Columns, Example, Split, Task


def parse_example(task: Task, record: Mapping[str, Any]) -> Example:
    """The example of a JSON object, without a label.

    Args:
        task: the task whose example it is.
        record: texts under the names of ROLES[task.kind] or of the data set's own columns; other keys are
            ignored. A choice's question may be absent.

    Raises:
        ValueError: one clause that names the field that is absent or not as expected.
    """
    return Example(_texts(task, record, {k: v for k, v in task.columns.items() if k not in record}), None)


def make_examples(
    task: Task, rows: Iterable[Row], split: Split, columns: Columns | None = None, group: str = ""
) -> list[Example]:
    """The examples of a table.

    Args:
        task: the task.
        rows: the table.
        split: of `test` the labels may be absent.
        columns: where the roles and the label are found in it; none is task.columns.
        group: of each example.

    Raises:
        UserError: a sentence that names the row and what is missing or wrong in it.
    """
    columns = task.columns if columns is None else columns
    label = several(columns.get("label", "label"))[0]
    examples = []
    for where, fields in rows:
        try:
            texts = _texts(task, fields, columns)
            unlabeled = split == "test" and fields.get(label) in (None, "")
            target = None if unlabeled else _label(task, fields, label, texts)
        except ValueError as error:
            raise UserError(f"data.source: {where} is no example of {task.name}: {error}") from error
        examples.append(Example(texts, target, group))
    return examples


def hold_out(examples: list[Example], every: int) -> tuple[list[Example], list[Example]]:
    """Training and validation examples from one list: each `every`-th is held out, of fewer than that the last."""
    held_out = min(every, len(examples)) - 1
    train = [example for index, example in enumerate(examples) if index % every != held_out]
    return train, examples[held_out::every]


def _texts(task: Task, fields: Mapping[str, Any], columns: Columns) -> tuple[str, ...]:
    texts: list[str] = []
    for role in ROLES[task.kind]:
        names = columns.get(role, role)
        if role == names == "question" and role not in fields:
            texts.append("")
        elif role == "choices":
            choices = _choices(fields, names)
            if len(choices) != task.choices:
                raise ValueError(f"it has {len(choices)} choices, expected {task.choices}")
            texts += choices
        else:
            texts.append(" ".join(_text(fields, name, role) for name in several(names)))
    return tuple(texts)


def _choices(fields: Mapping[str, Any], names: str | tuple[str, ...]) -> list[str]:
    if not isinstance(names, str):
        return [_text(fields, name, "choices") for name in names]
    values = _find(fields, names, "choices")
    if not isinstance(values, list):
        raise ValueError(f"{names!r} is {values!r:.80}, expected a list of texts")
    return [_text({names: value}, names, "choices") for value in values]


def _text(fields: Mapping[str, Any], name: str, role: str) -> str:
    value = _find(fields, name, role)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is {value!r:.80}, expected a text")
    value.encode()  # JSON can spell half a surrogate pair, which is no text: a ValueError too
    return value.strip()


def _label(task: Task, fields: Mapping[str, Any], name: str, texts: tuple[str, ...]) -> int | float:
    value = _find(fields, name, "label")
    if task.score_range:
        return _score(value, name, task.score_range)
    text = str(value).strip()
    if task.kind != "choice" or task.answers:
        return _position(text, name, task.labels or task.answers)
    choices = texts[2:]
    numbers = [str(number) for number in range(len(choices))]
    if text in numbers and text in choices and choices.index(text) != int(text):
        raise ValueError(f"{name!r} is {text!r}, the number of one choice and the text of another")
    return _position(text, name, numbers if text in numbers else choices)


def _position(text: str, name: str, known: tuple[str, ...] | list[str]) -> int:
    if known.count(text) != 1:
        raise ValueError(f"{name!r} is {text!r:.80}, expected one of {', '.join(map(repr, known)):.200}")
    return known.index(text)


def _score(value: Any, name: str, score_range: tuple[int, int]) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = float("nan")
    low, high = score_range
    if not low <= score <= high:
        raise ValueError(f"{name!r} is {value!r:.80}, expected a score from {low} to {high}")
    return score


def _find(fields: Mapping[str, Any], name: str, role: str) -> Any:
    if name in fields:
        return fields[name]
    own = f" (its {role})" if role != name else ""
    found = ", ".join(map(repr, fields)) or "nothing"
    raise ValueError(f"expected {name!r}{own} among its columns, found {found}")


def several(names: str | tuple[str, ...]) -> tuple[str, ...]:
    """The one or more columns of a role."""
    return (names,) if isinstance(names, str) else names
