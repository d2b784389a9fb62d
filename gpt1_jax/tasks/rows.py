"""The files that tables lie in: each reader yields the rows of one, whole, or names what is wrong with it."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from gpt1_jax.disk import inputs
from gpt1_jax.errors import UserError

_NAME = "data.source"
_DELIMITERS = ",;\t|"
_LOOKED_AT = 20  # rows by which a delimiter is judged, within as many characters
_LOOKED_AT_CHARACTERS = 2**22

csv.field_size_limit(inputs.LONGEST_LINE)  # 131,072 characters otherwise, which a book has


class Row(NamedTuple):
    """One row.

    Fields:
        where: how an error names it, such as "line 3 of dev.tsv".
        fields: its cells by the name of their column, or a JSON object.
        typed: whether the values have types, as JSON's do; a table's are all text.
    """

    where: str
    fields: Mapping[str, Any]
    typed: bool = True


def read_tsv(path: Path, header: tuple[str, ...] | None = None, spare: bool = False) -> Iterator[Row]:
    """The rows of a .tsv file: TAB separates cells, a quotation mark is a character like any other.

    A file whose quotation marks are all those of a CSV writer, as pandas leaves them, is read as that wrote it.

    Args:
        path: the file.
        header: the names of the columns, where the first line is a row already.
        spare: passes over a few lines with another number of columns, and says so.

    Raises:
        UserError: the file is not UTF-8, or a line has another number of columns than the header.
    """
    text = read_text(path)
    if (rows := _unquote(text)) is not None:
        yield from _table(path, rows, header, spare)
        return
    # Not splitlines(), for which a page break or a Unicode line separator within a cell ends the line too.
    lines = text.removesuffix("\n").split("\n") if text else []
    yield from _table(path, enumerate((_cells(line) for line in lines), start=1), header, spare)


def _cells(line: str) -> list[str]:
    return line.removesuffix("\r").split("\t")


def read_csv(path: Path) -> Iterator[Row]:
    """The rows of a .csv file with a header, quoted as usual; raises as `read_tsv`, and for a stray quote.

    A comma separates cells, or else what the first lines show, a semicolon say, and a warning tells so. Spaces between
    a comma and a quotation mark are no part of the cell. Before the header there may be a line as Excel's sep=;
    """
    text, first = read_text(path), 1
    if excels := re.match('sep=([^"\r\n])\r?(?:\n|$)', text):
        delimiter, text, first = excels[1], text[excels.end() :], 2
    else:
        delimiter = _guess(text)
    if delimiter != ",":
        logging.warning("%s: the columns of %s are separated by %r.", _NAME, path, delimiter)
    rows = _parse_csv(path, text, first, delimiter)
    loose = re.search(rf"(?:^|{re.escape(delimiter)}) +\"", text, re.MULTILINE)
    if loose and any(re.match(' +"', cell) for _, cells in rows for cell in cells):
        rows = _parse_csv(path, text, first, delimiter, skipinitialspace=True)
    yield from _table(path, rows)


def _parse_csv(
    path: Path, text: str, first: int, delimiter: str, skipinitialspace: bool = False
) -> list[tuple[int, list[str]]]:
    """The cells of each row, with the number of its last line; the text begins in line `first` of the file."""
    reader = csv.reader(
        io.StringIO(text, newline=""), strict=True, delimiter=delimiter, skipinitialspace=skipinitialspace
    )
    try:
        return [(reader.line_num + first - 1, cells) for cells in reader]
    except csv.Error as error:
        raise UserError(
            f"{_NAME}: line {reader.line_num + first - 1} of {path} is not CSV ({error}): mend its quotation marks"
        ) from error


def _table(
    path: Path,
    lines: Iterable[tuple[int, list[str]]],
    header: Sequence[str] | None = None,
    spare: bool = False,
) -> Iterator[Row]:
    rows = passed = 0
    for number, cells in lines:
        # An empty line is no row; but of a lone column it may be an empty cell, which CSV writes as "".
        if not cells or (cells == [""] and (header is None or len(header) > 1)):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            _check_header(path, header)
        elif len(cells) == len(header):
            rows += 1
            yield Row(f"line {number} of {path}", dict(zip(header, cells, strict=True)), typed=False)
        elif spare and passed < max(10, rows // 1000):
            passed += 1
        else:
            raise UserError(
                f"{_NAME}: line {number} of {path} has {len(cells)} columns, expected the {len(header)} columns "
                f"{', '.join(header):.200}: mend the line{', as one of many' * spare}"
            )
    if passed:
        logging.warning(
            "%s: %d lines of %s have another number of columns; they are left out.", _NAME, passed, path
        )


def _check_header(path: Path, header: list[str]) -> None:
    for name in header:
        if name and header.count(name) > 1:
            raise UserError(f"{_NAME}: {path} has several columns named {name!r}: rename all but one")


def _guess(text: str) -> str:
    """What separates the columns: a comma, unless only another gives most of the first rows the header's columns."""
    start = text[:_LOOKED_AT_CHARACTERS]

    def columns(delimiter: str) -> int:
        """Of the header, where most of the next rows have as many; else 1."""
        try:
            rows = islice(csv.reader(io.StringIO(start, newline=""), delimiter=delimiter), _LOOKED_AT)
            header, *others = [len(cells) for cells in rows if cells] or [1]
        except csv.Error:
            return 1
        return header if 2 * others.count(header) >= len(others) else 1

    found = {delimiter: columns(delimiter) for delimiter in _DELIMITERS}
    return "," if found[","] > 1 else max(_DELIMITERS, key=lambda delimiter: found[delimiter])


def _unquote(text: str) -> list[tuple[int, list[str]]] | None:
    """The numbered rows of a .tsv file that a CSV writer quoted where it must, or everywhere; None for any other.

    It is one if writing what was read gives the very file, or if all names of columns are quoted. Where lines have the
    same number of columns either way, a quoted line break is taken for two stray quotation marks, far apart.
    """
    if not re.search(r'(?:^|\t)"', text, re.MULTILINE):
        return None
    ending = "\r\n" if "\r\n" in text else "\n"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    try:
        rows = [(reader.line_num, cells) for cells in reader]
    except csv.Error:
        return None
    first = _cells(text.partition("\n")[0])
    if all(re.fullmatch(r'"(?:[^"]|"")*"', cell) for cell in first):
        return rows
    written = io.StringIO(newline="")
    csv.writer(written, delimiter="\t", lineterminator=ending).writerows(cells for _, cells in rows)
    if written.getvalue().removesuffix(ending) != text.removesuffix(ending):
        return None
    broken = any("\n" in cell for _, cells in rows for cell in cells)
    even = len({len(_cells(line)) for line in text.removesuffix("\n").split("\n")}) == 1
    return None if broken and even and len(first) > 1 else rows


def read_jsonl(path: Path) -> Iterator[Row]:
    """The objects of a .jsonl file, one a line.

    Raises:
        UserError: the file is not UTF-8, or a line is not a JSON object.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"line {number} of {path}"
            yield Row(where, inputs.parse_object(line, f"{_NAME}: {where}"))


def find_reader(path: Path) -> Callable[[Path], Iterator[Row]] | None:
    """The reader of a table with a header, by the ending of its name, whatever its case; gzip may have packed it."""
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".jsonl": read_jsonl,
        ".csv": read_csv,
        ".tsv": read_tsv,
    }
    return readers.get(Path(path.name.lower().removesuffix(".gz")).suffix)


def read_json_file(path: Path) -> Mapping[str, Any]:
    """The one JSON object that a file holds; raises as `read_jsonl`."""
    return inputs.parse_object(read_text(path), f"{_NAME}: {path}")


def read_text(path: Path) -> str:
    """The text of a file, without its byte-order mark; raises as `inputs.read_text`."""
    return inputs.read_text(path, _NAME)
