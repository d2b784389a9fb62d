"""The files that tables lie in: each reader yields the rows of one, whole, or names what is wrong with it."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt1_jax.errors import UserError


class Row(NamedTuple):
    """One row.

    Fields:
        where: how an error names it, such as "line 3 of dev.tsv".
        fields: its cells by the name of their column, or a JSON object.
    """

    where: str
    fields: Mapping[str, Any]


def read_tsv(path: Path, header: tuple[str, ...] | None = None) -> Iterator[Row]:
    """The rows of a .tsv file: TAB separates cells, a quotation mark is a character like any other.

    Args:
        path: the file.
        header: the names of the columns, where the first line is a row already.

    Raises:
        UserError: the file is not UTF-8, or a line has another number of columns than the header.
    """
    # Not splitlines(), for which a page break or a Unicode line separator within a cell ends the line too.
    lines = (line.removesuffix("\r").split("\t") for line in read_text(path).split("\n"))
    yield from _table(path, enumerate(lines, start=1), header)


def read_csv(path: Path) -> Iterator[Row]:
    """The rows of a .csv file with a header, quoted as usual; raises as `read_tsv`, and for a stray quote."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        yield from _table(path, ((reader.line_num, cells) for cells in reader), None)
    except csv.Error as error:
        raise UserError(
            f"data.source: line {reader.line_num} of {path} is not CSV ({error}): mend its quotation marks"
        ) from error


def _table(path: Path, lines: Iterator[tuple[int, list[str]]], header: Sequence[str] | None) -> Iterator[Row]:
    for number, cells in lines:
        if cells in ([], [""]):  # an empty line
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
        elif len(cells) == len(header):
            yield Row(f"line {number} of {path}", dict(zip(header, cells, strict=True)))
        else:
            raise UserError(
                f"data.source: line {number} of {path} has {len(cells)} columns, expected the {len(header)} columns "
                f"{', '.join(header)}: mend the line"
            )


def read_jsonl(path: Path) -> Iterator[Row]:
    """The objects of a .jsonl file, one a line.

    Raises:
        UserError: the file is not UTF-8, or a line is not a JSON object.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"line {number} of {path}"
            yield Row(where, _parse_object(line, where))


def read_json_file(path: Path) -> Mapping[str, Any]:
    """The one JSON object that a file holds; raises as `read_jsonl`."""
    return _parse_object(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a file, without its byte-order mark.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.source: {path} is not UTF-8 text (at byte {error.start}): convert it, say with iconv"
        ) from error
    except OSError as error:
        raise UserError(f"data.source: {path} cannot be read ({error.strerror}): mend that") from error


def _parse_object(text: str, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise UserError(f"data.source: {where} is not JSON ({error}): mend it") from error
    if not isinstance(record, dict):
        raise UserError(f"data.source: {where} is {text.strip()!r:.80}, expected a JSON object: mend it")
    return record
