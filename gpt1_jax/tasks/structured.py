"""Reads what is no class of a whole text: words with tags, answers within a context, completions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gpt1_jax.tasks.labels import find_class, spell_json, spell_label
from gpt1_jax.tasks.rows import Row
from gpt1_jax.tasks.task import Columns, Label, Task, TaskSplit, label_name
from gpt1_jax.tasks.units import Word, split_words
from gpt1_jax.wording import counted


class Sentence(NamedTuple):
    """A text and its words, with the characters that they take."""

    text: str
    words: list[Word]


def read_sentence(fields: Mapping[str, Any], columns: Columns) -> Sentence:
    """Reads a sentence from its list of words, or cuts the field `text` into words and signs.

    Words that come without a text are taken to have one space between them.

    Raises:
        ValueError: there is neither; the message is one clause.
    """
    name = str(columns.get("words", "words"))
    if name not in fields and isinstance(fields.get("text"), str):
        text = fields["text"]
        text.encode()
        return Sentence(text, split_words(text))
    words, start = [], 0
    for word in read_words(fields, name):
        words.append(Word(word, start, start + len(word)))
        start += len(word) + 1
    return Sentence(" ".join(word.text for word in words), words)


def read_words(fields: Mapping[str, Any], name: str) -> list[str]:
    """Returns a list of words; a text, as a cell of a table is, has spaces between them.

    Raises:
        ValueError: it is neither; the message is one clause.
    """
    words = _split(_value(fields, name))
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{name!r} is {spell_json(words)}, expected a list of words")
    for word in words:
        word.encode()
    return words


def read_label(task: Task, row: Row, texts: Sequence[str], columns: Columns, split: TaskSplit) -> Label:
    """Returns the label of a row of a kind that is not whole; None if a test part does not have it.

    Raises:
        ValueError: it is missing or wrong; the message is one clause.
    """
    name = str(columns.get(label_name(task.kind), label_name(task.kind)))
    known = [key for key in (name, "answer") if row.fields.get(key) is not None]
    if task.kind == "span" and not known and name in row.fields:
        return ()
    if split == "test" and not known:
        return None
    if task.kind == "tagging":
        return tuple(_tags(task, row, texts, name))
    if task.kind == "span":
        return _answers(row.fields, known[0] if known else name, texts[1])
    text = _value(row.fields, name)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name!r} is {spell_json(text)}, expected a text")
    text.encode()
    return text.strip()


def spell_tags(row: Row, name: str) -> Iterator[str]:
    """Yields the tags of a row's words as texts.

    Raises:
        ValueError: there are none, or one is missing or no text; the message is one clause.
    """
    tags = _split(_value(row.fields, name))
    if not isinstance(tags, list):
        raise ValueError(f"{name!r} is {spell_json(tags)}, expected a list of tags, one for each word")
    for number, tag in enumerate(tags, start=1):
        try:
            text = spell_label(tag)
        except ValueError as error:
            raise ValueError(f"tag {number} of {name!r} {error}") from error
        if text is None:
            raise ValueError(f"tag {number} of {name!r} is {spell_json(tag)}, expected a tag such as 'O'")
        yield text


def _tags(task: Task, row: Row, words: Sequence[str], name: str) -> Iterator[int]:
    tags = [*spell_tags(row, name)]
    if len(tags) != len(words):
        raise ValueError(
            f"{name!r} has {counted(len(tags), 'tag')} for {counted(len(words), 'word')}; give each word one"
        )
    for number, (word, tag) in enumerate(zip(words, tags, strict=True), start=1):
        try:
            yield find_class(tag, task.labels)
        except ValueError as error:
            raise ValueError(
                f"the tag of word {number}, {word!r:.40}, {error}; write a tag that training has"
            ) from error


def _answers(fields: Mapping[str, Any], name: str, context: str) -> tuple[tuple[int, int], ...]:
    """Returns where the accepted answers lie; none if the question has no answer."""
    found = []
    for text, start in _listed(fields, name):
        if not isinstance(text, str) or not (start is None or type(start) is int):
            raise ValueError(
                f"{name!r} is {spell_json(fields[name])}, expected the answer's text and where it begins"
            )
        if not text.strip():
            continue
        if start is None or start < 0 or context[start : start + len(text)] != text:
            start = _nearest(context, text, start or 0)
        if start is None:
            raise ValueError(
                f"the answer {text!r:.80} is not in the context; write it letter by letter as it is there"
            )
        found.append((start, start + len(text)))
    return tuple(dict.fromkeys(found))


def _listed(fields: Mapping[str, Any], name: str) -> list[tuple[Any, Any]]:
    """Returns the text and the start, or None, of each answer: a text, a list, or SQuAD's records in either form."""
    given = _value(fields, name)
    if isinstance(given, str):
        return [(given, fields.get("answer_start"))]
    if isinstance(given, Mapping) and isinstance(given.get("text"), list):
        starts = given.get("answer_start") or [None] * len(given["text"])
        if not isinstance(starts, list) or len(starts) != len(given["text"]):
            raise ValueError(f"{name!r} is {spell_json(given)}, expected a start for each text")
        return [*zip(given["text"], starts, strict=True)]
    if isinstance(given, Mapping):
        given = [given]
    if not isinstance(given, list):
        raise ValueError(f"{name!r} is {spell_json(given)}, expected a text or a list of answers")
    return [
        (one.get("text"), one.get("answer_start")) if isinstance(one, Mapping) else (one, None)
        for one in given
    ]


def _nearest(context: str, text: str, start: int) -> int | None:
    """Returns where a text begins in the context nearest to a place, or None."""
    before, after = context.rfind(text, 0, max(start, 0) + len(text)), context.find(text, max(start, 0))
    places = [place for place in (before, after) if place >= 0]
    return min(places, key=lambda place: abs(place - start)) if places else None


def _value(fields: Mapping[str, Any], name: str) -> Any:
    if name in fields:
        return fields[name]
    found = ", ".join(map(repr, fields)) or "nothing"
    raise ValueError(f"expected {name!r} among its columns, found {found:.300}")


def _split(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value
