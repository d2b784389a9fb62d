"""Reads the rows of tables from files; each reader yields all rows or says what is wrong with the file."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from absl import logging

from gpt1_jax.disk import inputs
from gpt1_jax.errors import UserError
from gpt1_jax.wording import counted

_NAME = "data.source"
_DELIMITERS = ",;\t|"
# The delimiter is found by looking at this many rows, within the number of characters below.
_LOOKED_AT = 20
_LOOKED_AT_CHARACTERS = 2**22

# Python's own limit is 131,072 characters, which a book exceeds.
csv.field_size_limit(inputs.LONGEST_LINE)


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        where: what an error calls the row, such as "line 3 of dev.tsv".
        fields: the cells by the names of their columns, or a JSON object.
        typed: whether values have types, as in JSON; in a table every value is text.
    """

    where: str
    fields: Mapping[str, object]
    typed: bool = True


Reader = Callable[[Path], Iterator[Row]]
Readers = Mapping[str, Reader]


def read_tsv(path: Path, header: tuple[str, ...] | None = None, spare: bool = False) -> Iterator[Row]:
    """Yields the rows of a .tsv file, where TAB separates cells and a quotation mark is an ordinary character.

    If every quotation mark is one that a CSV writer such as pandas would write, the file is read as CSV instead.

    Args:
        path: the file.
        header: the names of the columns, if the first line is already a row.
        spare: whether to skip a few lines with the wrong number of columns, with a warning.

    Raises:
        UserError: the file is not UTF-8, or a line has the wrong number of columns.
    """
    text = read_text(path)
    if (rows := _unquote(text)) is not None:
        yield from _table(path, rows, header, spare)
        return
    # splitlines() would also break lines at a page break or a Unicode line separator within a cell.
    lines = text.removesuffix("\n").split("\n") if text else []
    yield from _table(path, enumerate((_cells(line) for line in lines), start=1), header, spare)


def _cells(line: str) -> list[str]:
    return line.removesuffix("\r").split("\t")


def read_csv(path: Path) -> Iterator[Row]:
    """Yields the rows of a .csv file with a header and the usual quotes.

    Commas separate cells. If the first lines show another delimiter, such as a semicolon, a warning names it. Spaces
    between a delimiter and a quotation mark do not belong to the cell. Excel's line sep=; may precede the header.

    Raises:
        UserError: the file is not UTF-8, has a stray quotation mark, or has a line with the wrong number of columns.
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
    """Returns the cells of each row and the number of its last line; the text begins in line `first` of the file."""
    reader = csv.reader(
        io.StringIO(text, newline=""), strict=True, delimiter=delimiter, skipinitialspace=skipinitialspace
    )
    try:
        return [(reader.line_num + first - 1, cells) for cells in reader]
    except csv.Error as error:
        raise UserError(
            f"{_NAME}: line {reader.line_num + first - 1} of {path} is not CSV ({error}); fix its quotation marks."
        ) from error


def _table(
    path: Path,
    lines: Iterable[tuple[int, list[str]]],
    header: Sequence[str] | None = None,
    spare: bool = False,
) -> Iterator[Row]:
    rows = passed = 0
    for number, cells in lines:
        # An empty line is not a row. In a single column it may be an empty cell, but CSV writes that as "".
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
                f"{_NAME}: line {number} of {path} has {counted(len(cells), 'column')}, expected the "
                f"{counted(len(header), 'column')} {', '.join(header):.200}; fix the line{', as one of many' * spare}."
            )
    if passed:
        logging.warning(
            "%s: %s of %s left out for a wrong number of columns.", _NAME, counted(passed, "line"), path
        )


def _check_header(path: Path, header: list[str]) -> None:
    for name in header:
        if name and header.count(name) > 1:
            raise UserError(f"{_NAME}: {path} has several columns named {name!r}; rename all but one.")


def _guess(text: str) -> str:
    """Returns the delimiter: a comma, unless only another one splits most of the first rows like the header."""
    start = text[:_LOOKED_AT_CHARACTERS]

    def columns(delimiter: str) -> int:
        """Returns the header's number of columns, or 1 unless most of the next rows have as many."""
        try:
            rows = islice(csv.reader(io.StringIO(start, newline=""), delimiter=delimiter), _LOOKED_AT)
            header, *others = [len(cells) for cells in rows if cells] or [1]
        except csv.Error:
            return 1
        return header if 2 * others.count(header) >= len(others) else 1

    found = {delimiter: columns(delimiter) for delimiter in _DELIMITERS}
    return "," if found[","] > 1 else max(_DELIMITERS, key=lambda delimiter: found[delimiter])


def _unquote(text: str) -> list[tuple[int, list[str]]] | None:
    """Returns the numbered rows of a .tsv file that a CSV writer quoted, or None for any other file.

    A CSV writer quoted it if writing the rows again gives the same file, or if all names of columns are quoted. If all
    lines have the same number of columns without unquoting, an apparent line break within quotes is taken for two stray
    quotation marks that are far apart.
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
    """Yields the objects of a .jsonl file, one from each line.

    Raises:
        UserError: the file is not UTF-8, or a line is not a JSON object.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"line {number} of {path}"
            yield Row(where, inputs.parse_object(line, f"{_NAME}: {where}"))


def find_reader(path: Path, readers: Readers) -> Reader | None:
    """Returns one of the readers, by the file's ending in any case, with or without .gz."""
    return readers.get(Path(path.name.lower().removesuffix(".gz")).suffix)


def read_json_file(path: Path) -> Mapping[str, object]:
    """Reads a file that holds one JSON object.

    Raises:
        UserError: the file is not UTF-8 or not a JSON object.
    """
    return inputs.parse_object(read_text(path), f"{_NAME}: {path}")


def read_text(path: Path) -> str:
    """Reads the text of a file, without a byte-order mark.

    Raises:
        UserError: as in `inputs.read_text`.
    """
    return inputs.read_text(path, _NAME)
