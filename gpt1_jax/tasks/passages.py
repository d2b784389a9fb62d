"""RACE's passages: each question of a document becomes an example."""

from collections.abc import Iterator, Mapping

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.rows import Row


def split_passage(where: str, passage: Mapping[str, object]) -> Iterator[Row]:
    """Yields a row with article, question, options and answer for each question of a passage.

    Raises:
        UserError: the passage does not have lists of questions, options and answers of equal length.
    """
    values = (passage.get(name) for name in ("questions", "options", "answers"))
    lists = [value for value in values if isinstance(value, list)]
    if len(lists) < 3 or len(set(map(len, lists))) != 1:
        raise UserError(
            f"data.source: {where} is not a RACE passage, expected lists of equally many questions, options and "
            "answers; fix it."
        )
    article = passage.get("article")
    for number, (question, options, answer) in enumerate(zip(*lists, strict=True), start=1):
        yield Row(
            f"question {number} of {where}",
            {"article": article, "question": question, "options": options, "answer": answer},
        )
