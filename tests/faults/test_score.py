"""Files of every kind that `score` reads and writes: an object for each line, or a sentence."""

import json
import os
import random
import re
import resource
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
from run_support import WORDS, make_run

import gpt1_jax

TEXTS = ["the old song", "", "a river", "{light}"]
RECORDS = [{"text": "the old"}, {"context": "the", "continuation": " old song"}]


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as commands:
        yield commands


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("scored"))


def answers(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def assert_scored(ended: Ended, run: Path, texts: list[str]) -> None:
    assert ended.code == 0, ended.stderr
    found, expected = answers(ended.stdout), gpt1_jax.load(run).score(texts)
    assert [score["text"] for score in found] == texts
    assert [score["total"] for score in found] == pytest.approx([x["total"] for x in expected], abs=1e-3)


@pytest.mark.parametrize("data", ["\n".join(TEXTS), "\r\n".join(TEXTS) + "\r\n", "\ufeff" + "\n".join(TEXTS) + "\n"],
                         ids=["plain", "CRLF", "byte-order mark"])  # fmt: skip
def test_each_line_of_text_has_its_object(commands: Commands, run: Path, tmp_path: Path, data: str) -> None:
    (tmp_path / "in.txt").write_bytes(data.encode())
    assert_scored(commands.run("score", f"--workdir={run}", f"--input={tmp_path}/in.txt"), run, TEXTS)
    assert_scored(commands.run("score", f"--workdir={run}", stdin=data.encode()), run, TEXTS)


def test_json_objects_are_texts_or_continuations(commands: Commands, run: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS) + "\n\n")
    target.write_text("as it was")
    ended = commands.run("score", f"--workdir={run}", f"--input={source}", f"--output={target}", "--top=2")
    assert (ended.code, ended.stdout) == (0, ""), ended.stderr
    text, continuation = answers(target.read_text())
    assert list(text) == [
        "text", "token_ids", "logprobs", "total", "tokens", "bytes", "bits_per_byte", "words", "alternatives",
    ]  # fmt: skip
    assert [len(pieces) for pieces in text["alternatives"]] == [2] * text["tokens"]
    assert list(continuation) == ["total", "tokens", "greedy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'["a"]', "expected a JSON object"),
        (b"", "Line 2 of .* is empty, and others follow"),
        (b'{"text": 5}', "text=5 is not a text"),
        (b'{"context": "a"}', "neither"),
        ('{"text": "é"}'.encode("latin-1"), "not UTF-8"),
        (b'{"text": "\\ud800"}', "surrogate"),
    ],
)
def test_a_wrong_line_is_told_by_its_number_and_nothing_is_written(
    commands: Commands, run: Path, tmp_path: Path, line: bytes, told: str
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b'{"text": "a"}\n' + line + b'\n{"text": "c"}\n')
    target.write_text("as it was")
    ended = commands.run("score", f"--workdir={run}", f"--input={source}", f"--output={target}")
    assert ended.code == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert "ine 2 of --input=" in ended.stderr
    assert re.search(told, ended.stderr), ended.stderr
    assert target.read_text() == "as it was"


def test_slips_are_told(commands: Commands, run: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    given = f"--workdir={run} --input={tmp_path}/in.txt"
    for flags, told in (
        (f"--workdir={run} --input=nowhere", "nowhere"),
        (f"--workdir={run} --input=.", "directory"),
        (f"{given} --output={tmp_path}/in.txt", "the file of --input"),
        (f"{given} --output={tmp_path}/no/out", "lies in no directory"),
        (f"{given} --top=-1", "--top=-1 is out of range"),
        (f"{given} --stride=0", "--stride=0 is out of range"),
        (f"--workdir={tmp_path}", "is not a run directory"),
        ("", "--workdir is missing"),
    ):
        ended = commands.run("score", *flags.split(), stdin=b"a\n")
        assert ended.code == 2 and told in ended.stderr and ended.stderr.count("\n") == 1, (flags, ended)
    assert (tmp_path / "in.txt").read_text() == "a\n"


def start(run: Path, *flags: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gpt1_jax.score", f"--workdir={run}", *flags], cwd=ROOT, text=True, **more,
        env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )  # fmt: skip


def test_lines_of_an_endless_input_are_answered_while_it_goes_on_and_a_signal_ends_it(run: Path) -> None:
    process = start(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None

    def write(pipe: Any) -> None:
        with pytest.raises(OSError):
            while True:
                pipe.write("the old song\n" * 100)

    threading.Thread(target=write, args=(process.stdin,), daemon=True).start()
    for _ in range(600):
        assert json.loads(process.stdout.readline())["tokens"] > 0
    process.send_signal(signal.SIGTERM)
    threading.Thread(target=process.stdout.read, daemon=True).start()
    assert process.wait(60) == 143
    assert "Traceback" not in process.stderr.read()


def test_a_signal_leaves_no_output(run: Path, tmp_path: Path) -> None:
    """While it waits for lines that do not come."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = start(run, f"--input={pipe}", f"--output={tmp_path}/out.jsonl", stderr=subprocess.PIPE)
    with pipe.open("w") as file:
        file.write("the old song\n" * 1000)
        file.flush()
        time.sleep(1.5)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in err, err
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.slow
def test_a_file_of_any_size_takes_the_same_memory(run: Path, tmp_path: Path) -> None:
    """As the system counts it, for inputs of which one is sixteen times as long as the other."""
    peaks = []
    for lines in (3_000, 48_000):
        path = tmp_path / f"{lines}.txt"
        words = random.Random(0)
        path.write_text("".join(" ".join(words.choices(WORDS, k=30)) + "\n" for _ in range(lines)))
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        with (tmp_path / "out").open("w") as out:
            assert start(run, f"--input={path}", stdout=out).wait(170) == 0
        peaks.append(max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
        assert sum(1 for _ in (tmp_path / "out").open()) == lines
    assert peaks[1] < peaks[0] + 40_000
