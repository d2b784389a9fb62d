"""RACE's passages: a document with several questions is as many examples."""

from collections.abc import Iterator, Mapping
from typing import Any

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.rows import Row


def split_passage(where: str, passage: Mapping[str, Any]) -> Iterator[Row]:
    """A row with article, question, options and answer for each question of a passage.

    Raises:
        UserError: the passage has no lists of questions, options and answers of one length.
    """
    lists: list[Any] = [passage.get(name) for name in ("questions", "options", "answers")]
    if not all(isinstance(values, list) for values in lists) or len(set(map(len, lists))) != 1:
        raise UserError(
            f"data.source: {where} is no RACE passage: expected lists of as many questions, options and answers"
        )
    article = passage.get("article")
    for number, (question, options, answer) in enumerate(zip(*lists, strict=True), start=1):
        yield Row(
            f"question {number} of {where}",
            {"article": article, "question": question, "options": options, "answer": answer},
        )
