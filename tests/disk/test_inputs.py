"""Users' files: unpacked within bounds, or refused in a sentence; none hangs or fills the memory."""

import gzip
import json
import lzma
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gpt1_jax.disk import inputs
from gpt1_jax.disk.paths import expand, expand_local
from gpt1_jax.errors import UserError


def told(path: Path, pipe: bool = False) -> str:
    with pytest.raises(UserError) as error:
        inputs.read_text(path, "--input", pipe)
    message = str(error.value)
    assert message.startswith(f"--input: {path}") and "\n" not in message
    return message


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.GZ"])
def test_what_gzip_packed_is_read_by_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress("\ufeffzwölf".encode()))
    assert inputs.read_text(tmp_path / name, "--input") == "zwölf"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text".encode("utf-16"), "is UTF-16, not UTF-8 text; convert it to UTF-8, say with iconv -f UTF-16"),
        (b"\xfe\xff\x00a", "is UTF-16"),
        ("plain words".encode("utf-16-le"), "is UTF-16 or not text"),
        (bytes(100), "is UTF-16 or not text"),
        ("eight ch".encode("utf-16-be"), "is UTF-16 or not text"),
        ("text".encode("utf-32"), "is UTF-32"),
        (lzma.compress(b"text"), "is packed with xz, not UTF-8 text; unpack it"),
        (b"PK\x03\x04\xff", "is a zip archive"),
        ("Bücher".encode("latin-1"), "is not UTF-8 text (at byte 1); convert it, say with iconv -f LATIN1"),
        (b"\x1f\x8b nothing", "cannot be read"),
        (gzip.compress(b"text" * 100, mtime=0)[:-9], "cannot be read"),
    ],
)
def test_what_is_no_text_is_told_with_the_way_to_make_it_one(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert expected in told(tmp_path / "a.txt")


def test_a_missing_file_a_directory_and_a_loop_of_links_are_told(tmp_path: Path) -> None:
    assert "No such file" in told(tmp_path / "missing")
    assert "is a directory" in told(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "symbolic links" in told(tmp_path / "loop")


def test_a_device_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in told(tmp_path / "pipe")
    assert "not a regular file" in told(Path("/dev/zero"))


def test_where_a_pipe_will_do_it_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        with (tmp_path / "pipe").open("wb") as pipe:
            pipe.write(b"first ")
            pipe.flush()
            time.sleep(0.1)
            pipe.write(b"second")

    writer = threading.Thread(target=write)
    writer.start()
    assert inputs.read_text(tmp_path / "pipe", "--input", pipe=True) == "first second"
    writer.join()


def test_a_pipe_to_which_nobody_writes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(inputs, "_PIPE_SECONDS", 0.1)
    assert "nobody writes" in told(tmp_path / "pipe", pipe=True)


def test_who_has_opened_a_pipe_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(inputs, "_PIPE_SECONDS", 0.1)
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    late = threading.Timer(0.3, lambda: (os.write(writer, b"late"), os.close(writer)))
    late.start()
    assert inputs.read_text(tmp_path / "pipe", "--input", pipe=True) == "late"


def test_what_has_no_end_is_told_of_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "LARGEST", 2**26)
    assert "no end within" in told(Path("/dev/zero"), pipe=True)


def test_a_file_larger_than_memory_is_told_of_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.txt").open("wb") as file:
        file.truncate(2**40)
    started = time.monotonic()
    assert "no end within 4 GB" in told(tmp_path / "sparse.txt")
    assert time.monotonic() - started < 2


def test_a_gzip_bomb_is_told_of_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_PACKED_BYTES", 2**22)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(2**25)))
    (tmp_path / "text.gz").write_bytes(gzip.compress(json.dumps(list(range(10**6))).encode()))
    assert "200 times its size" in told(tmp_path / "bomb.gz")
    assert len(inputs.read_text(tmp_path / "text.gz", "--input")) > 2**22  # as large, and read


def test_a_line_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "LONGEST_LINE", 100)
    (tmp_path / "a.jsonl").write_bytes(b"x" * 99 + b"\n" + b"y" * 200)
    with inputs.open_input(tmp_path / "a.jsonl", "--input") as file:
        lines = inputs.read_lines(file, "--input: a.jsonl")
        assert len(next(lines)) == 100
        with pytest.raises(UserError, match=r"--input: a\.jsonl has a line of more than"):
            next(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("[" * 100_000 + "]" * 100_000, "nested too deep"),
        ("[1]", r"is '\[1\]', expected a JSON object"),
        ("", "is not JSON"),
        (f'{{"a": {"9" * 5000}}}', "is not JSON"),
        (r'{"a": "\ud800"}', "half of a surrogate pair"),
        (r'{"\uDfff": 1}', "half of a surrogate pair"),
    ],
)
def test_what_is_no_json_object_is_told(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=rf"^line 7 of x {expected}|^line 7 of x .*{expected}") as error:
        inputs.parse_object(text, "line 7 of x")
    assert len(str(error.value)) < 300


def test_a_json_object_may_spell_whole_surrogate_pairs() -> None:
    assert inputs.parse_object(r'{"a": "\ud83d\ude00"}', "x") == {"a": "😀"}


def test_a_home_that_is_not_known_is_no_directory_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_local("~/a", "--workdir") == tmp_path / "a"
    assert str(expand("gs://bucket/~/a", "--workdir")) == "gs://bucket/~/a"
    assert str(expand("./~", "--workdir")) == "~"
    with pytest.raises(UserError, match=r"--workdir=~nobody-of-that-name/a begins with ~nobody-of-that-name"):
        expand("~nobody-of-that-name/a", "--workdir")


def test_an_unknown_user_without_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import os, pwd
os.environ.pop("HOME", None)
os.getuid = lambda: 1234567
from gpt1_jax.errors import UserError
from gpt1_jax.disk.paths import expand
try:
    expand("~/.cache", "data.cache_dir")
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("data.cache_dir=~/.cache begins with ~") and "HOME" in done.stdout
