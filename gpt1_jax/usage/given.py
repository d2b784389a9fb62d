"""Examples as Python code gives them: texts, tuples, dictionaries or a pandas frame."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt1_jax.arguments import check_several, check_text, shown
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.examples import several
from gpt1_jax.tasks.task import ROLES, Columns, Kind, label_name

# New examples as type checkers know them; a frame serves too.
NewExamples = Sequence[Mapping[str, object] | tuple[Any, ...] | list[Any]] | list[str] | tuple[str, ...]

# What may stand in place of a column: a text that is cut into words, and an answer by its shorter name.
_OTHER_NAMES = {"words": "text", "answers": "answer"}
# What SQuAD's records have besides.
_MORE: dict[Kind, tuple[str, ...]] = {"tagging": ("text",), "span": ("answer", "answer_start", "id")}


def check_kind(kind: object) -> Kind:
    """Returns a kind of task.

    Raises:
        UserError: there is no such kind.
    """
    for known in ROLES:
        if kind == known:
            return known
    raise UserError(f"kind={shown(kind)} is not a kind of task; give one of {', '.join(ROLES)}.")


def check_columns(columns: object, kind: Kind) -> Columns:
    """Returns the names of columns by what they hold; None counts as no names.

    Raises:
        UserError: something else is given, or a name that the config cannot hold.
    """
    if columns is None:
        return {}
    roles = (*ROLES[kind], label_name(kind))
    expected = f"a dictionary from {', '.join(roles[:-1])} or {roles[-1]} to the name of a column"
    if not isinstance(columns, Mapping):
        raise UserError(f"columns={shown(columns)} is not {expected}; give such a dictionary.")
    found: dict[str, str | tuple[str, ...]] = {}
    for role, given in columns.items():
        names = (given,) if isinstance(given, str) else given
        if role not in roles or not isinstance(names, Sequence) or not names:
            raise UserError(
                f"columns has {shown(role)}: {shown(given)}, expected {expected}; correct that entry."
            )
        for name in names:
            if not isinstance(name, str) or not name.strip() or "," in name:
                raise UserError(
                    f"columns has the name {shown(name)}, which has a comma or is not a text; rename that column."
                )
        found[role] = given if isinstance(given, str) else tuple(names)
    return found


def spell_columns(columns: Columns) -> str:
    """Returns the names of columns as `finetune.columns` has them."""
    return ",".join(
        f"{role}={names if isinstance(names, str) else '+'.join(names)}" for role, names in columns.items()
    )


class Labeled(NamedTuple):
    """Labeled examples as records, and the names of their columns that differ from the kind's."""

    records: list[dict[str, Any]]
    columns: Columns


def read_labeled(kind: Kind, given: object, name: str, columns: Columns) -> Labeled:
    """Returns examples with their labels as records, with the columns that the kind has.

    Args:
        kind: of the examples.
        given: tuples of the kind's texts, in the order of ROLES, and the label; dictionaries; or a frame.
        name: the argument that holds them, for errors.
        columns: the names of the columns that have other names than the kind's; if the first example lacks these, but
            has the kind's own names, as a tuple has, those count.

    Raises:
        UserError: there are none, or one is not such an example.
    """
    roles = (*ROLES[kind], label_name(kind))
    members = [
        _record(member, roles, f"{name}[{number}]") for number, member in enumerate(_members(given, name))
    ]
    if not members:
        raise UserError(f"{name} is empty; give labeled examples.")
    wanted = {role: columns.get(role, role) for role in roles}
    own = dict(zip(roles, roles, strict=True))
    if _missing(kind, members[0], wanted) and not _missing(kind, members[0], own):
        columns, wanted = {}, own
    kept = {column for names in wanted.values() for column in several(names)} | {*_MORE.get(kind, ())}
    records = []
    for number, record in enumerate(members):
        if missing := _missing(kind, record, wanted):
            role, column = missing
            found = ", ".join(map(repr, record)) or "nothing"
            raise UserError(
                f"{name}[{number}] has no {column!r} but {found:.200}; give it one, or name the column that holds it: "
                f'columns={{"{role}": …}}.'
            )
        records.append({str(column): record[column] for column in record if column in kept})
    return Labeled(records, columns)


def unlabeled_records(kind: Kind, given: object, name: str) -> list[Mapping[str, Any]]:
    """Returns new examples as records.

    Args:
        kind: of the examples.
        given: texts, tuples of the kind's texts, dictionaries, or a frame; a sentence to tag may be a list of words.
        name: the argument that holds them, for errors.

    Raises:
        UserError: one is not such an example.
    """
    records: list[Mapping[str, Any]] = []
    for number, member in enumerate(_members(given, name)):
        where = f"{name}[{number}]"
        if isinstance(member, str) and len(ROLES[kind]) == 1:
            role = ROLES[kind][0]
            records.append({_OTHER_NAMES.get(role, role): check_text(member, where)})
        elif kind == "tagging" and isinstance(member, list | tuple):
            records.append({"words": [*member]})
        else:
            records.append(_record(member, ROLES[kind], where))
    return records


def to_lines(records: Sequence[Mapping[str, Any]], name: str) -> bytes:
    """Returns records as the lines of a .jsonl file.

    Raises:
        UserError: one holds what JSON or UTF-8 cannot spell.
    """
    lines = []
    for number, record in enumerate(records):
        try:
            lines.append(json.dumps(record, ensure_ascii=False, default=_plain).encode() + b"\n")
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"{name}[{number}] cannot be written as JSON ({error}); give texts, numbers and lists of these."
            ) from error
    return b"".join(lines)


def _missing(kind: Kind, record: Mapping[Any, Any], columns: Columns) -> tuple[str, str] | None:
    """Returns what a record lacks and the column that would hold it, or None if it has all that its kind needs."""
    for role, names in columns.items():
        optional = (kind, role) == ("choice", "question") or _OTHER_NAMES.get(role) in record
        for column in several(names):
            if column not in record and not optional:
                return role, column
    return None


def _members(given: object, name: str) -> list[Any]:
    """Returns the examples one by one; the rows of a frame as dictionaries."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(given, pandas.DataFrame):
        frame: Any = given
        # A missing cell is None, whatever its column holds.
        return frame.astype(object).where(frame.notna(), None).to_dict("records")
    return check_several(given, name, "a list of examples or a pandas frame")


def _record(member: object, roles: Sequence[str], where: str) -> dict[str, Any]:
    if isinstance(member, Mapping):
        return {**member}
    if isinstance(member, tuple | list):
        # A choice may lack its question.
        fewer = [role for role in roles if role != "question" or "choices" not in roles]
        for names in (roles, fewer):
            if len(member) == len(names):
                return dict(zip(names, member, strict=True))
    form = f"({', '.join(roles)})" if len(roles) > 1 else roles[0]
    raise UserError(
        f"{where} is {shown(member)}, expected {form} or a dictionary of these; give one of the two."
    )


def _plain(value: object) -> Any:
    """Returns NumPy's arrays and numbers as JSON types, and other collections as lists."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{shown(value)} is a {type(value).__name__}")
