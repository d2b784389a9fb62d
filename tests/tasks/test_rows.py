"""Tables: every row whole, and a sentence about a bad one."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.rows import read_csv, read_json_file, read_jsonl, read_tsv


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_tsv_is_split_at_tabs_and_line_breaks_and_nowhere_else(tmp_path: Path) -> None:
    text = '\ufeffa\tb c \n"one\ttwo" \u2028 "\x0c\n\n\x85\t \r\nlast\t3'
    rows = list(read_tsv(write(tmp_path / "x.tsv", text)))
    assert [row.fields for row in rows] == [
        {"a": '"one', "b c": 'two" \u2028 "\x0c'},
        {"a": "\x85", "b c": " "},
        {"a": "last", "b c": "3"},
    ]
    assert [row.where for row in rows] == [f"line {n} of {tmp_path}/x.tsv" for n in (2, 4, 5)]


def test_tsv_without_a_header_takes_the_given_one(tmp_path: Path) -> None:
    rows = list(read_tsv(write(tmp_path / "x.tsv", "1\t2\n3\t4\n"), header=("a", "b")))
    assert [row.fields for row in rows] == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_csv_is_quoted(tmp_path: Path) -> None:
    text = '\ufeffa,b\r\n"1, ""one""\nand more",2\r\n\r\n3,4\r\n'
    rows = list(read_csv(write(tmp_path / "x.csv", text)))
    assert [row.fields for row in rows] == [{"a": '1, "one"\nand more', "b": "2"}, {"a": "3", "b": "4"}]
    assert [row.where.split(" of ")[0] for row in rows] == ["line 3", "line 5"]


def test_jsonl_is_an_object_a_line(tmp_path: Path) -> None:
    rows = list(read_jsonl(write(tmp_path / "x.jsonl", '\ufeff{"a": 1}\n\n{"b": ["\u2028"]}\r\n')))
    assert [row.fields for row in rows] == [{"a": 1}, {"b": ["\u2028"]}]
    assert rows[1].where == f"line 3 of {tmp_path}/x.jsonl"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.tsv", "a\tb\n1\t2\n1\n", "line 3 of .*x.tsv has 1 column, expected the 2 columns a, b"),
        ("x.tsv", "a\tb\n1\t2\t3\n", "line 2 of .*x.tsv has 3 columns"),
        ("x.tsv", b"a\tb\n1\t\xff\n", "x.tsv is not UTF-8 text .at byte 6."),
        ("x.csv", "a,b\n1,2,3\n", "line 2 of .*x.csv has 3 columns"),
        ("x.csv", 'a,b\n1,"2\n', "x.csv is not CSV"),
        ("x.csv", 'a,b\n1,"2"3\n', "line 2 of .*x.csv is not CSV"),
        ("x.jsonl", '{"a": 1}\n{"a": \n', "line 2 of .*x.jsonl is not JSON"),
        ("x.jsonl", "[1]\n", r"line 1 of .*x.jsonl is '\[1\]', expected a JSON object"),
        ("x.jsonl", None, "x.jsonl cannot be read .No such file"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, name: str, content: str | bytes | None, told: str) -> None:
    read = {".tsv": read_tsv, ".csv": read_csv, ".jsonl": read_jsonl}[Path(name).suffix]
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(UserError, match=f"data.source: .*{told}"):
        list(read(tmp_path / name))


def test_a_json_file_holds_one_object(tmp_path: Path) -> None:
    assert read_json_file(write(tmp_path / "x.json", '{"a":\n1}')) == {"a": 1}
    with pytest.raises(UserError, match=r"x.json is 'null', expected a JSON object"):
        read_json_file(write(tmp_path / "x.json", "null"))


# ── Rows read are rows written ───────────────────────────────────────────────────────────────────────────────

TEXTS = [
    "",
    " ",
    "one",
    'a "quoted" word',
    "a, b; c | d",
    "two\nlines",
    "\u2028",
    "'",
    '"',
    '""',
    ' , "x"',
    "last",
]


def written_by_csv(path: Path, columns: list[str], rows: list[list[str]], **settings: Any) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **settings).writerows([columns, *rows])
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_a_csv_has_the_rows_that_the_csv_module_wrote(tmp_path: Path, delimiter: str, quoting: Any) -> None:
    rows = [[text, str(number)] for number, text in enumerate(TEXTS)]
    path = written_by_csv(tmp_path / "x.csv", ["text", "label"], rows, delimiter=delimiter, quoting=quoting)
    assert [[*row.fields.values()] for row in read_csv(path)] == rows


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_row_with_a_stray_delimiter_is_told_by_its_line(tmp_path: Path, delimiter: str) -> None:
    """And hides from nobody what separates the others."""
    lines = [delimiter.join(cells) for cells in (["text", "label"], ["a", "x"], ["b", "c", "y"], ["d", "x"])]
    with pytest.raises(UserError, match=r"line 3 of .* has 3 columns, expected the 2 columns text, label"):
        list(read_csv(write(tmp_path / "x.csv", "\n".join(lines))))


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_csv_of_one_column_has_its_empty_rows(tmp_path: Path, ending: str) -> None:
    path = written_by_csv(tmp_path / "x.csv", ["text"], [[text] for text in TEXTS], lineterminator=ending)
    assert [row.fields["text"] for row in read_csv(path)] == TEXTS
    path.write_bytes(path.read_bytes() + ending.encode())  # an empty line at the end is none
    assert len(list(read_csv(path))) == len(TEXTS)


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_tsv_that_pandas_wrote_has_its_rows(tmp_path: Path, quoting: Any) -> None:
    """DataFrame.to_csv(sep=TAB) writes by the csv module, with these settings."""
    rows = [[text, str(number)] for number, text in enumerate([*TEXTS, "a\ttab"])]
    settings = {"delimiter": "\t", "lineterminator": "\n", "quoting": quoting}
    path = written_by_csv(tmp_path / "x.tsv", ["text", "label"], rows, **settings)
    assert [[*row.fields.values()] for row in read_tsv(path)] == rows


@pytest.mark.parametrize("columns", [1, 2])
def test_a_tsv_without_quoting_has_a_row_a_line(tmp_path: Path, columns: int) -> None:
    """In GLUE's files a quotation mark may begin one cell and end another, lines below."""
    texts = ["", '"', '"begun', "between", 'ended"', '"both"', '""', "last", ""]
    lines = ["\t".join([text, "0"][:columns]) for text in texts]
    (tmp_path / "x.tsv").write_text("\n".join(["\t".join(["text", "label"][:columns]), *lines]) + "\n")
    found = [row.fields["text"] for row in read_tsv(tmp_path / "x.tsv")]
    assert found == texts and len(found) == (tmp_path / "x.tsv").read_text().count("\n") - 1


def test_stray_quotes_far_apart_join_no_lines(tmp_path: Path) -> None:
    text = 'text\tlabel\n"begun here\t1\nbetween\t0\nended here"\t1\n'
    assert len(list(read_tsv(write(tmp_path / "x.tsv", text)))) == 3


def test_jsonl_has_the_objects_that_json_finds(tmp_path: Path) -> None:
    records = [{"text": text} for text in TEXTS]
    text = "\n\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n \n"
    path = write(tmp_path / "x.jsonl", text)
    assert [row.fields for row in read_jsonl(path)] == [
        json.loads(line) for line in text.split("\n") if line.strip()
    ]


@settings(
    derandomize=True,
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    table=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(
                st.text(st.sampled_from('a" ,;\t|\n\r\u2028ü'), max_size=6), min_size=width, max_size=width
            ),
            max_size=8,
        )
    ),
    delimiter=st.sampled_from(",;\t|"),
)
def test_any_table_comes_back_from_csv(tmp_path: Path, table: list[list[str]], delimiter: str) -> None:
    columns = [f"column {i}" for i in range(len(table[0]) if table else 2)]
    if len(columns) == 1:
        delimiter = ","  # what separates lone columns cannot be guessed
    path = written_by_csv(tmp_path / "x.csv", columns, table, delimiter=delimiter)
    assert [[*row.fields.values()] for row in read_csv(path)] == table
    if delimiter == "\t" and len(columns) > 1:
        path = written_by_csv(tmp_path / "x.tsv", columns, table, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        assert [[*row.fields.values()] for row in read_tsv(path)] == table


# ── As programs write them ───────────────────────────────────────────────────────────────────────────────────


def test_what_separates_columns_is_told_unless_it_is_a_comma(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(list(read_csv(write(tmp_path / "x.csv", "text,label;x\na;b,1\n")))) == 1
    assert not caplog.records
    assert next(read_csv(write(tmp_path / "x.csv", "text;label\na, b;1\n"))).fields == {
        "text": "a, b",
        "label": "1",
    }
    assert "x.csv are separated by ';'" in caplog.text


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(("delimiter", "other"), [(";", ","), (",", ";"), ("\t", ","), ("#", ",")])
def test_a_line_of_excels_tells_what_separates_columns(
    tmp_path: Path, delimiter: str, other: str, ending: str
) -> None:
    lines = [["text", f"a{other}b"], [f"x{other}y", "1"], ["last", f"{other}"]]
    path = write(tmp_path / "x.csv", ending.join([f"sep={delimiter}", *map(delimiter.join, lines)]))
    found = [*read_csv(path)]
    assert [[*row.fields.items()] for row in found] == [
        [*zip(lines[0], row, strict=True)] for row in lines[1:]
    ]
    assert [row.where for row in found] == [f"line 3 of {path}", f"line 4 of {path}"]
    with pytest.raises(UserError, match=r"line 3 of .* has 1 column"):
        list(read_csv(write(tmp_path / "x.csv", f"sep={delimiter}\na{delimiter}b\nc\n")))


def test_a_field_of_csv_may_be_a_book(tmp_path: Path) -> None:
    text = "a word, " * 100_000
    path = written_by_csv(tmp_path / "x.csv", ["text", "label"], [[text, "1"]])
    assert next(read_csv(path)).fields["text"] == text


def test_spaces_before_a_quotation_mark_are_no_part_of_a_cell(tmp_path: Path) -> None:
    rows = read_csv(write(tmp_path / "x.csv", 'text, "label"\n"one, two", "pos"\nthree,"neg"\n'))
    assert [row.fields for row in rows] == [
        {"text": "one, two", "label": "pos"},
        {"text": "three", "label": "neg"},
    ]
    (row,) = read_csv(write(tmp_path / "x.csv", 'text,label\n" ""one"", two", 3\n'))
    assert row.fields == {"text": ' "one", two', "label": " 3"}


def test_two_columns_of_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.csv has several columns named 'text'"):
        list(read_csv(write(tmp_path / "x.csv", "text,text,label\n1,2,3\n")))


def test_few_lines_may_be_spared_and_are_told_many_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "x.tsv", "a\tb\n" + "1\t2\n" * 50 + "short\n" * 10 + "1\t2\n")
    assert len(list(read_tsv(path, spare=True))) == 51
    assert "10 lines of" in caplog.text
    with pytest.raises(UserError, match="line 52 of"):
        list(read_tsv(path))
    path.write_text("a\tb\n" + "short\n" * 11)
    with pytest.raises(UserError, match=r"line 12 of .* as one of many"):
        list(read_tsv(path, spare=True))
