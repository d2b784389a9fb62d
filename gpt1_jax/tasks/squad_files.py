"""Reads questions on contexts from JSON in the layout of SQuAD 1.1 and 2.0."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt1_jax.disk.inputs import parse_object
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.labels import spell_json
from gpt1_jax.tasks.rows import Row, read_jsonl, read_text


def read_squad(path: Path) -> Iterator[Row]:
    """Yields a row with id, question, context and answers for each question; one that cannot be answered has none.

    The file is JSON of the official layout, or has such a row a line, as Hugging Face's sets are written.

    Raises:
        UserError: the file is neither.
    """
    text = read_text(path)
    if _is_row(text.strip().partition("\n")[0]):
        yield from read_jsonl(path)
        return
    number = 0
    for article in _list(parse_object(text, f"data.source: {path}"), "data", f"{path}"):
        for paragraph in _list(article, "paragraphs", f"an article of {path}"):
            for asked in _list(paragraph, "qas", f"a paragraph of {path}"):
                number += 1
                fields = {
                    "id": str(asked.get("id", "")),
                    "question": asked.get("question"),
                    "context": paragraph.get("context"),
                }
                if asked.get("is_impossible") is True:
                    fields["answers"] = []
                elif "answers" in asked:
                    fields["answers"] = asked["answers"]
                yield Row(f"question {number} ({fields['id']:.60}) of {path}", fields)


def _is_row(line: str) -> bool:
    try:
        return "question" in parse_object(line, "")
    except UserError:
        return False


def _list(fields: Mapping[str, Any], name: str, where: str) -> list[Mapping[str, Any]]:
    values = fields.get(name)
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        raise UserError(
            f"data.source: {where} has {spell_json(values)} for {name!r}, expected a list of objects; write it as "
            "SQuAD does."
        )
    return values
