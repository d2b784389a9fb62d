"""Tables: every row whole, and what is told of a bad one."""

from pathlib import Path

import pytest

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
        ("x.tsv", "a\tb\n1\t2\n1\n", "line 3 of .*x.tsv has 1 columns, expected the 2 columns a, b"),
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
