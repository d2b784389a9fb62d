"""Makes examples from records, wherever the records come from."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from gpt1_jax.errors import UserError
from gpt1_jax.hashing import hash_numbers
from gpt1_jax.tasks.labels import find_choice, find_class, find_score, is_not_known, spell_json, spell_label
from gpt1_jax.tasks.rows import Row
from gpt1_jax.tasks.structured import read_label, read_sentence
from gpt1_jax.tasks.task import ROLES, Columns, Example, Label, Task, TaskSplit
from gpt1_jax.wording import counted


def find_columns(task: Task, records: Iterable[Iterable[str]]) -> Columns:
    """Returns the columns that hold the texts of new records, given as their fields: those the task was read from.

    If no record has any of them, the names of the roles are used. All records follow one rule, so that none is read
    from other columns than its neighbors.
    """
    own = {role: names for role, names in task.columns.items() if role in ROLES[task.kind]}
    columns = {name for names in own.values() for name in several(names)}
    found = set().union(*records)
    return {} if not found & columns and found & set(ROLES[task.kind]) else own


def parse_example(task: Task, record: Mapping[str, object], columns: Columns) -> Example:
    """Makes an unlabeled example from a JSON object.

    Args:
        task: the task that the example belongs to.
        record: holds the texts; other keys are ignored. A choice's question may be absent.
        columns: what `find_columns` returned.

    Raises:
        ValueError: a field is absent or not as expected; the message is one clause that names it.
    """
    return Example(_texts(task, record, columns), None)


def make_examples(
    task: Task, rows: Iterable[Row], split: TaskSplit, columns: Columns | None = None, group: str = ""
) -> list[Example]:
    """Makes the examples of a table.

    Args:
        task: the task.
        rows: the rows of the table.
        split: in `test`, labels may be missing, or be -1 if that is not a label of the task.
        columns: names the columns of the roles and of the label; None means task.columns.
        group: the group that each example gets.

    Raises:
        UserError: something is missing or wrong in a row; the error names the row.
    """
    columns = task.columns if columns is None else columns
    label = several(columns.get("label", "label"))[0]
    examples = []
    for row in rows:
        try:
            texts = _texts(task, row.fields, columns)
            if task.whole:
                target = _label(task, spell_cell(row, label, split), label, texts, split)
            else:
                target = read_label(task, row, texts, columns, split)
        except ValueError as error:
            raise UserError(f"data.source: {row.where} is not an example of {task.name}: {error}.") from error
        examples.append(
            Example(texts, target, group, str(row.fields.get("id", "")) if task.kind == "span" else "")
        )
    return examples


def spell_cell(row: Row, name: str, split: TaskSplit) -> str | None:
    """Returns the label in column `name` of a row as text, or None if it is missing, which only a test part allows.

    Raises:
        ValueError: the label is missing, or neither text nor a number; the message is one clause.
    """
    if split == "test" and name not in row.fields:
        return None
    value = _find(row.fields, name, "label")
    try:
        text = spell_label(value, row.typed)
    except ValueError as error:
        raise ValueError(f"{name!r} {error}") from error
    if text is None and split != "test":
        spelled = f", as {value.strip()!r} says" if isinstance(value, str) and value.strip() else ""
        raise ValueError(f"{name!r} is missing{spelled}; give the row a label, or leave it out")
    return text


def hold_out(
    task: Task, examples: list[Example], every: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """Divides one list into training and validation examples, each in the order of the list.

    The examples of each class form blocks of `every`, and one example of each block is drawn; in the first block, one
    of the first two. So a class of two or more examples appears on both sides, and appending examples moves none of
    the earlier ones. If a class has one example, it is trained on. All scores count as one class, and so do all
    sentences to tag, all questions on contexts and all prompts.

    Args:
        task: says whether labels are classes.
        examples: the labeled examples.
        every: about one example in this many is held out.
        seed: data.split_seed; -1 instead holds out each `every`-th example, or the last of fewer.
    """
    if seed == -1:
        held_out = min(every, len(examples)) - 1
        train = [example for index, example in enumerate(examples) if index % every != held_out]
        return train, examples[held_out::every]
    strata: dict[Label, list[int]] = {}
    for number, example in enumerate(examples):
        strata.setdefault(_stratum(task, example), []).append(number)
    drawn = set()
    for numbers in strata.values():
        if len(numbers) == 1:
            continue
        hashes = hash_numbers(seed, np.array(numbers[::every])).tolist()
        for block, hashed in enumerate(hashes):
            place = block * every + hashed % (every if block else 2)
            drawn |= set(numbers[place : place + 1])
    return (
        [example for number, example in enumerate(examples) if number not in drawn],
        [examples[number] for number in sorted(drawn)],
    )


def _stratum(task: Task, example: Example) -> Label:
    """Returns the class that an example is held out with; scores, sentences and questions are of one."""
    return example.label if task.whole and not task.score_range else None


def _texts(task: Task, fields: Mapping[str, object], columns: Columns) -> tuple[str, ...]:
    if task.kind == "tagging":
        return tuple(word.text for word in read_sentence(fields, columns).words)
    texts: list[str] = []
    for role in ROLES[task.kind]:
        names = columns.get(role, role)
        if role == names == "question" and role not in fields:
            texts.append("")
        elif role == "choices":
            choices = _choices(fields, names)
            if len(choices) != task.choices:
                raise ValueError(f"it has {counted(len(choices), 'choice')}, expected {task.choices}")
            texts += choices
        else:
            read = _text if task.kind != "span" else _whole_text
            texts.append(" ".join(read(fields, name, role) for name in several(names)))
    return tuple(texts)


def _choices(fields: Mapping[str, object], names: str | tuple[str, ...]) -> list[str]:
    if not isinstance(names, str):
        return [_text(fields, name, "choices") for name in names]
    values = _find(fields, names, "choices")
    if not isinstance(values, list):
        raise ValueError(f"{names!r} is {spell_json(values)}, expected a list of texts")
    return [_text({names: value}, names, "choices") for value in values]


def _text(fields: Mapping[str, object], name: str, role: str) -> str:
    return _whole_text(fields, name, role).strip()


def _whole_text(fields: Mapping[str, object], name: str, role: str) -> str:
    value = _find(fields, name, role)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is {spell_json(value)}, expected a text")
    # JSON can spell half of a surrogate pair, which is not text; encoding it raises a ValueError too.
    value.encode()
    return value


def _label(
    task: Task, text: str | None, name: str, texts: tuple[str, ...], split: TaskSplit
) -> int | float | None:
    if text is None:
        return None
    try:
        if task.score_range:
            return _score(task, text)
        if task.kind != "choice" or task.answers:
            return find_class(text, task.labels or task.answers)
        return find_choice(text, texts[2:])
    except ValueError as error:
        if split == "test" and is_not_known(text):
            return None
        raise ValueError(f"{name!r} {error}") from error


def _score(task: Task, text: str) -> float:
    """Reads a label as a score; in a user's own task a score may lie outside the range of training."""
    assert task.score_range is not None
    score, (low, high) = find_score(text), task.score_range
    outside = not low <= score <= high
    if math.isnan(score) or (outside and (task.name != "custom" or is_not_known(text))):
        raise ValueError(f"is {text!r:.80}, expected a score from {low} to {high}")
    return score


def _find(fields: Mapping[str, object], name: str, role: str) -> object:
    if name in fields:
        return fields[name]
    own = f" (its {role})" if role != name else ""
    found = ", ".join(map(repr, fields)) or "nothing"
    raise ValueError(f"expected {name!r}{own} among its columns, found {found:.300}")


def several(names: str | tuple[str, ...]) -> tuple[str, ...]:
    """Returns the columns of a role, one or more."""
    return (names,) if isinstance(names, str) else names
