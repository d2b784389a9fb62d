"""Whatever Python or standard input gives to a run, it answers or refuses in a sentence, without a traceback.

`pytest -m endurance tests/faults/test_usage_input.py` goes on for minutes; FUZZ_SECONDS says for how many seconds.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.commands import ROOT, Commands
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from run_support import make_run

import gpt1_jax
from gpt1_jax.disk import inputs
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.task import Task
from gpt1_jax.usage.trained import TrainedRun

pytestmark = pytest.mark.usefixtures("quick_compilation")

TASKS = (
    Task("custom", "classification", ("accuracy",), labels=("bad", "good")),
    Task("custom", "choice", ("accuracy",), choices=2),
)
SECONDS = float(os.environ.get("FUZZ_SECONDS", "100"))

# ── What may come ────────────────────────────────────────────────────────────────────────────────────────────

TEXT = st.text(max_size=20) | st.text(st.characters(categories=["Cs", "Lu", "Cc"]), max_size=3)
INTEGER = (
    st.integers(-2, 310)
    | st.integers()
    | st.sampled_from([2**31, 2**32, 10**30, 10**400])
    | st.none().map(lambda _: 10**5000)
)
NUMBER = st.floats() | st.sampled_from([1e-46, 1e-40, 1e30, 3.5e38, np.float32(0.5), np.float16(2)])
LEAF = (
    st.none() | st.booleans() | INTEGER | NUMBER | TEXT | st.binary(max_size=5)
    | st.sampled_from([np.int64(3), np.array(3), np.array([1, 2]), np.array([[1]]), np.array([1.5]), np.array(["a"]),
                       object(), 1j, range(3), ...])
)  # fmt: skip
ANY = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(TEXT, inner, max_size=3)
        | st.lists(inner, max_size=3).map(iter)
    ),
    max_leaves=6,
)  # fmt: skip
IDS = st.lists(st.integers(0, 299), max_size=17)
SETTINGS = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(1, 3) | LEAF},
    optional={
        "temperature": NUMBER | LEAF,
        "top_k": INTEGER | LEAF,
        "top_p": st.floats(0, 1) | NUMBER | LEAF,
        "repetition_penalty": NUMBER | LEAF,
        "num_beams": st.integers(1, 3) | LEAF,
        "length_penalty": NUMBER | LEAF,
        "num_samples": st.integers(1, 3) | LEAF,
        "seed": INTEGER | LEAF,
        "stop": IDS | ANY,
        "beyond_context": st.sampled_from(["stop", "slide", "refuse"]) | LEAF,
        "number": INTEGER | LEAF,
    },
)
PROMPT = TEXT | IDS | st.lists(TEXT, max_size=3) | ANY
CHOICES = st.lists(TEXT, max_size=3)
RECORD = st.fixed_dictionaries(
    {},
    optional={"text": TEXT | ANY, "context": TEXT | ANY, "question": TEXT | ANY, "choices": CHOICES | ANY},
)
RECORDS = st.lists(RECORD | ANY, max_size=3) | ANY


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[TrainedRun]:
    """A language model, a classifier and a chooser, with random parameters."""
    return [gpt1_jax.load(make_run(tmp_path_factory.mktemp("random"), task)) for task in (None, *TASKS)]


def answered(call: Any) -> Any:
    """What a call gives; None where it refuses in a sentence."""
    try:
        return call()
    except UserError as error:
        assert 10 < len(str(error)) < 1500 and str(error).isprintable()
        return None


def try_usage(
    runs: list[TrainedRun], prompt: Any, chosen: dict[str, Any], records: Any, anything: Any
) -> None:
    language = runs[0]
    found = answered(lambda: language.generate(prompt, **chosen))
    for entry in found if isinstance(found, list) else [found] * (found is not None):
        assert json.loads(json.dumps(entry, allow_nan=False)) == entry
        for sample in entry["samples"]:
            assert 1 <= len(sample["token_ids"]) == len(sample["logprobs"]) <= chosen["max_new_tokens"]
            assert all(0 <= id < 300 for id in sample["token_ids"])
    for run in runs[1:]:
        found = answered(lambda run=run: run.predict(records))
        for entry in found or []:
            chances = entry["probabilities"]
            assert sum(chances.values() if isinstance(chances, dict) else chances) == pytest.approx(1)
    text = answered(lambda: language.decode(anything))
    assert text is None or isinstance(text, str)
    ids = answered(lambda: language.encode(anything))
    assert ids is None or language.decode(ids) == anything
    logits = answered(lambda: language.logits(anything))
    assert logits is None or np.isfinite(logits).all()
    answered(lambda: language.generate([1], max_new_tokens=1, watch=anything))


ARGUMENTS = {"prompt": PROMPT, "chosen": SETTINGS, "records": RECORDS, "anything": ANY}
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@given(**ARGUMENTS)
@settings(max_examples=40, derandomize=True, **QUIET)
def test_python_gets_an_answer_or_a_sentence(
    runs: list[TrainedRun], prompt: Any, chosen: dict[str, Any], records: Any, anything: Any
) -> None:
    try_usage(runs, prompt, chosen, records, anything)


LINES = st.binary(max_size=60) | st.lists(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "a"]), inner, max_size=2),
).map(json.dumps), max_size=4).map(lambda lines: "\n".join(lines).encode())  # fmt: skip


def try_lines(directory: Path, data: bytes) -> None:
    """Reads a file of JSON lines as `predict` does: an object for each of its lines, or a sentence."""
    path = directory / "in.jsonl"
    path.write_bytes(data)

    def read() -> list[dict[str, Any]]:
        with inputs.open_input(path, "--input") as file:
            lines = [line for line in inputs.read_lines(file, "--input") if line.strip()]
        return [inputs.parse_object(inputs.decode(line, "a line"), "a line") for line in lines]

    for record in answered(read) or []:
        json.dumps(record, ensure_ascii=False).encode()


@given(data=LINES)
@settings(max_examples=200, derandomize=True, **QUIET)
def test_lines_of_json_are_records_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    try_lines(tmp_path_factory.getbasetemp(), data)


@pytest.mark.endurance
def test_minutes_of_other_arguments(runs: list[TrainedRun], tmp_path: Path) -> None:
    end, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        number += 1

        @seed(number)
        @given(**ARGUMENTS, data=LINES)
        @settings(max_examples=100, database=None, **QUIET)
        def search(data: bytes, **arguments: Any) -> None:
            try_usage(runs, **arguments)
            try_lines(tmp_path, data)

        search()


# ── Standard input ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as commands:
        yield commands


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"[1, 300]", "300"),
        (b"[-1]", "-1"),
        (b"[1.0]", "1.0"),
        (b"[true]", "true"),
        (b"[NaN]", "NaN"),
        (b"[[1]]", "[1]"),
        (b"{}", "{}"),
        (b"5", "5"),
        (b"[" * 100_000, "[[["),
        (b"[" + b"1" * 5000 + b"]", "111"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[1] [2]", "[1] [2]"),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else "",
)
def test_a_line_that_is_no_list_of_ids_is_told(
    commands: Commands, runs: list[TrainedRun], line: bytes, told: str
) -> None:
    flags = (f"--workdir={runs[0].run.directory}", "--decode")
    ended = commands.run("tokenize", *flags, stdin=b"[270]\n" + line + b"\n")
    assert ended.code == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert "ine 2 of standard input" in ended.stderr and told in ended.stderr and len(ended.stderr) < 300
    assert ended.stdout == runs[0].decode([270]) + "\n"


def test_text_that_is_not_utf_8_is_told_by_its_line(commands: Commands, runs: list[TrainedRun]) -> None:
    workdir = f"--workdir={runs[0].run.directory}"
    for module, flags in (("tokenize", ()), ("generate", ("--max_new_tokens=2", "--json"))):
        ended = commands.run(module, workdir, *flags, stdin=b"the old\nna\xefve\n")
        assert ended.code == 2 and "ine 2 of standard input is not UTF-8" in ended.stderr, ended.stderr
        assert ended.stderr.count("\n") == 1 and ended.stdout.count("\n") == 1
    ended = commands.run("generate", workdir, "--prompt=na\udcefve")
    assert ended.code == 2 and "--prompt=" in ended.stderr and "not UTF-8" in ended.stderr, ended.stderr


def test_a_prompt_that_does_not_fit_is_told_by_its_line(commands: Commands, runs: list[TrainedRun]) -> None:
    flags = (f"--workdir={runs[0].run.directory}", "--max_new_tokens=2", "--json")
    ended = commands.run("generate", *flags, stdin=b"the old\n" + b"the old " * 20 + b"\na river\n")
    assert ended.code == 2 and ended.stdout.count("\n") == 1
    assert "Line 2 of standard input: A prompt of" in ended.stderr and ended.stderr.count("\n") == 1


def test_a_signal_ends_endless_writing_with_its_own_code(runs: list[TrainedRun]) -> None:
    flags = [f"--workdir={runs[0].run.directory}", "--prompt=the old", "--max_new_tokens=2000000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt1_jax.generate", *flags, "--beyond_context=slide"],
        cwd=ROOT, env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.read(40).startswith(b"the old")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and b"Traceback" not in err, err


def test_settings_far_out_are_told_as_they_were_typed(commands: Commands, runs: list[TrainedRun]) -> None:
    for flag, code, told in (
        ("--top_k=3000000000", 0, ""),
        ("--temperature=1e-40", 2, "temperature=1e-40"),
        (f"--num_samples={10**9}", 2, "num_samples=1000000000"),
        (f"--max_new_tokens={'9' * 400}", 2, "max_new_tokens=999"),
        (f"--seed={'9' * 5000}", 2, "seed=999"),
        ("--repetition_penalty=nan", 2, "repetition_penalty=nan"),
        ("--stop=1,٣", 2, "--stop=٣"),
        ("--stop=1,99999", 2, "--stop=99999 is not a token; name ids from 0 to "),
        ("--length_penalty=2", 2, "length_penalty=2.0"),
    ):
        flags = (f"--workdir={runs[0].run.directory}", "--prompt=the old", "--max_new_tokens=2", flag)
        ended = commands.run("generate", *flags)
        assert ended.code == code and told in ended.stderr, ended.stderr
        assert ended.stderr.count("\n") == (code > 0) and len(ended.stderr) < 600
