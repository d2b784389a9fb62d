"""Files of every kind that `predict` reads and writes: a label for each line, or a sentence and nothing written."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.commands import ROOT, Commands, Ended
from run_support import make_run

import gpt1_jax
from gpt1_jax.tasks.task import Task

GENRES = Task("custom", "classification", ("accuracy",), labels=("bad", "good"))
TEXTS = ["the old song", "a river", "", "light"]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as commands:
        yield commands


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("classifier"), GENRES)


def predict(commands: Commands, run: Path, source: object, target: object, **more: Any) -> Ended:
    return commands.run("predict", f"--workdir={run}", f"--input={source}", f"--output={target}", **more)


def answers(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def left(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize(
    "data",
    [LINES, LINES.rstrip("\n"), LINES + "\n \n\n", "\ufeff" + LINES, LINES.replace("\n", "\r\n")],
    ids=["plain", "no last break", "empty lines at the end", "byte-order mark", "CRLF"],
)
def test_each_line_has_its_answer_at_its_place(
    commands: Commands, run: Path, tmp_path: Path, data: str
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(data.encode())
    ended = predict(commands, run, source, target)
    assert ended.code == 0, ended.stderr
    expected = gpt1_jax.load(run).predict([{"text": text} for text in TEXTS])
    for found, other in zip(answers(target.read_text()), expected, strict=True):
        assert found["label"] == other["label"]
        assert found["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    assert left(tmp_path) == {"in.jsonl", "out.jsonl"}


WRONG_LINES = {
    "no JSON": (b"{text: 1}", "is not JSON"),
    "array": (b'["a"]', "expected a JSON object"),
    "text": (b'"a"', "expected a JSON object"),
    "empty line between": (b"", "line 2 .* is empty, and others follow"),
    "nested 100,000 deep": (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
    "two values": (b'{"text": "a", "text": "b"}', "'text' has two values"),
    "Latin-1": ('{"text": "é"}'.encode("latin-1"), "not UTF-8"),
    "half a character": (b'{"text": "\\ud800"}', "surrogate"),
    "half a character as key": (b'{"\\ud800": "a", "text": "a"}', "surrogate"),
    "huge integer": (b'{"text": ' + b"1" * 5000 + b"}", "is not JSON"),
    "zero bytes": (b"\0\0\0\0", "is not JSON"),
    "no such field": (b'{"txt": "a"}', "text"),
    "null": (b'{"text": null}', "text"),
    "number": (b'{"text": 5}', "text"),
}


@pytest.mark.parametrize("case", WRONG_LINES)
def test_a_wrong_line_is_told_by_its_number_and_nothing_is_written(
    commands: Commands, run: Path, tmp_path: Path, case: str
) -> None:
    line, told = WRONG_LINES[case]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b'{"text": "a"}\n' + line + b'\n{"text": "c"}\n')
    target.write_text("as it was")
    ended = predict(commands, run, source, target)
    assert ended.code == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert "ine 2 " in ended.stderr and len(ended.stderr) < 600
    assert re.search(told, ended.stderr), ended.stderr
    assert target.read_text() == "as it was" and left(tmp_path) == {"in.jsonl", "out.jsonl"}


def test_other_inputs_are_told(commands: Commands, run: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(b"PK\x03\x04\xff")
    (tmp_path / "circle").symlink_to("circle")
    for name, told in (("nowhere", "nowhere"), (".", "directory"), ("packed", "zip"), ("circle", "circle")):
        ended = predict(commands, run, tmp_path / name, tmp_path / "out.jsonl")
        assert ended.code == 2 and told in ended.stderr and ended.stderr.count("\n") == 1, ended.stderr
    assert "out.jsonl" not in left(tmp_path)


# ── Outputs ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text(LINES)
    return path


def test_a_file_is_replaced_and_a_link_is_written_through(
    commands: Commands, run: Path, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("old")
    (tmp_path / "hanging").symlink_to("made")
    for name in ("link", "hanging", "old"):
        ended = predict(commands, run, source, tmp_path / name)
        assert ended.code == 0, ended.stderr
        assert len(answers((tmp_path / name).read_text())) == len(TEXTS)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "hanging").is_symlink()
    assert left(tmp_path) == {"in.jsonl", "old", "link", "hanging", "made"}


def test_standard_output_and_pipes_are_written(
    commands: Commands, run: Path, source: Path, tmp_path: Path
) -> None:
    ended = predict(commands, run, source, "/dev/stdout")
    assert ended.code == 0 and len(answers(ended.stdout)) == len(TEXTS), ended.stderr
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert predict(commands, run, source, pipe).code == 0
    reader.join()
    assert len(answers(read[0])) == len(TEXTS) and pipe.is_fifo()


def test_standard_input_is_read(commands: Commands, run: Path, tmp_path: Path) -> None:
    ended = predict(commands, run, "/dev/stdin", tmp_path / "out.jsonl", stdin=LINES.encode())
    assert ended.code == 0, ended.stderr
    assert len(answers((tmp_path / "out.jsonl").read_text())) == len(TEXTS)


def test_an_output_that_cannot_be_or_would_lose_something_is_told_at_once(
    commands: Commands, run: Path, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "hanging").symlink_to("nowhere/out.jsonl")
    (tmp_path / "same").symlink_to("in.jsonl")
    os.link(source, tmp_path / "twin")
    names = left(tmp_path)
    for name, told in (
        (".", "directory"),
        ("new/", "names a directory"),
        ("nowhere/out.jsonl", "lies in no directory"),
        ("hanging", "lies in no directory"),
        ("in.jsonl/out.jsonl", "ot a directory"),
        ("circle", "symbolic links"),
        ("in.jsonl", "the file of --input"),
        ("same", "the file of --input"),
        ("twin", "the file of --input"),
        ("x" * 300, "name too long"),
    ):
        # The run is not there: what is wrong with the output is told before anything is read.
        ended = predict(commands, tmp_path / "no run", source, f"{tmp_path}/{name}")
        assert ended.code == 2 and told.lower() in ended.stderr.lower(), ended.stderr
        assert ended.stderr.count("\n") == 1
    assert source.read_text() == LINES and left(tmp_path) == names


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_leaves_no_output(run: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The signal comes while the command waits for lines that do not come."""
    pipe, target = tmp_path / "pipe", tmp_path / "out.jsonl"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt1_jax.predict", f"--workdir={run}", f"--input={pipe}", f"--output={target}"],
        cwd=ROOT, env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, text=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    with pipe.open("w") as file:
        file.write('{"text": "a"}\n')
        file.flush()
        time.sleep(0.5)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in err, err
    assert left(tmp_path) == {"pipe"}
