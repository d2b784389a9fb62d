"""Reads files with a word a line: CoNLL's columns and Universal Dependencies' CoNLL-U."""

import re
from collections.abc import Iterator
from pathlib import Path

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.rows import Row, read_text
from gpt1_jax.wording import counted

_DOCUMENT = "-DOCSTART-"
_CONLLU_COLUMNS, _CONLLU_WORD, _CONLLU_TAG = 10, 1, 3


def read_conll(path: Path) -> Iterator[Row]:
    """Yields the sentences of a file with a word a line and an empty line after each sentence.

    Columns stand between tabs or, in a file without tabs, spaces. The first column is the word and the last its tag; a
    file of one column has no tags. Lines that begin with -DOCSTART- are left out.

    Raises:
        UserError: the file is not UTF-8, or a line does not have as many columns as the first one.
    """
    text = read_text(path)
    # A tab in an otherwise empty line, or at the end of one, separates nothing.
    tabs, columns = re.search(r"\S[ \t]*\t[ \t]*\S", text) is not None, 0
    for start, lines in _sentences(text):
        rows = []
        for number, line in enumerate(lines, start=start):
            if line.startswith(_DOCUMENT):
                continue
            cells = line.split("\t") if tabs else re.split(" +", line.strip(" \t"))
            columns = columns or len(cells)
            if len(cells) != columns or not cells[0]:
                raise UserError(
                    f"data.source: line {number} of {path} has {counted(len(cells), 'column')}, expected the {columns} "
                    f"of the first line, a word first{' and its tag last' * (columns > 1)}; fix the line."
                )
            rows.append(cells)
        if rows:
            fields = {"words": [cells[0] for cells in rows]}
            if columns > 1:
                fields["tags"] = [cells[-1].strip() for cells in rows]
            yield Row(f"the sentence at line {start} of {path}", fields)


def read_conllu(path: Path) -> Iterator[Row]:
    """Yields the sentences of a CoNLL-U file, with the universal part of speech of each word, column 4.

    Comments, the surface forms of several words (such as 3-4) and empty nodes (such as 5.1) are left out.

    Raises:
        UserError: the file is not UTF-8, or a line does not have ten columns.
    """
    for start, lines in _sentences(read_text(path)):
        words, tags = [], []
        for number, line in enumerate(lines, start=start):
            if line.startswith("#"):
                continue
            cells = line.split("\t")
            if len(cells) != _CONLLU_COLUMNS or not cells[_CONLLU_WORD]:
                raise UserError(
                    f"data.source: line {number} of {path} has {counted(len(cells), 'column')}, expected the ten of "
                    "CoNLL-U with tabs between them; fix the line."
                )
            if cells[0].isdigit():
                words.append(cells[_CONLLU_WORD])
                tags.append(cells[_CONLLU_TAG])
        if words:
            yield Row(f"the sentence at line {start} of {path}", {"words": words, "tags": tags})


def _sentences(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields runs of lines that are not empty, and the number of the first line of each."""
    lines: list[str] = []
    number = 0
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if line.strip(" \t"):
            lines.append(line)
        elif lines:
            yield number - len(lines), lines
            lines = []
    if lines:
        yield number + 1 - len(lines), lines
