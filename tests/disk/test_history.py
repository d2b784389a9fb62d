"""What a run was trained with, stretch by stretch, and that damage to its small files is mended or named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_config

from gpt1_jax.config import Config, schema
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run

IDENTITY = {"text": "aaa", "tokenizer": "bbb"}
TASK = {"name": "cola", "labels": ["no", "yes"]}


def rate(value: float, **more: Any) -> Config:
    return tiny_config(**{"optimizer.learning_rate": value} | more)


def value(config: Config, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section), name, None) if section else getattr(config, name)


def stretches(run: Run) -> list[tuple[int, float]]:
    history = json.loads((run.directory / "history.json").read_text())
    return [(entry["from_step"], entry["config"]["optimizer"]["learning_rate"]) for entry in history]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(str(tmp_path / "run"))
    run.record(rate(0.1), IDENTITY, files={"task.json": TASK})
    return run


def test_each_stretch_of_steps_keeps_its_config(run: Run) -> None:
    run.record(rate(0.1), IDENTITY, 10, {"task.json": TASK})
    assert stretches(run) == [(0, 0.1)]
    run.record(rate(0.2), IDENTITY, 20)
    run.record(rate(0.3), IDENTITY, 30)
    assert stretches(run) == [(0, 0.1), (20, 0.2), (30, 0.3)]
    assert run.config() == rate(0.3)


def test_steps_that_are_done_again_take_the_place_of_what_was_lost(run: Run) -> None:
    run.record(rate(0.2), IDENTITY, 20)
    run.record(rate(0.3), IDENTITY, 30)
    run.record(rate(0.4), IDENTITY, 20)  # checkpoint 30 was damaged
    assert stretches(run) == [(0, 0.1), (20, 0.4)]
    run.record(rate(0.5), IDENTITY, 0)  # and 20 as well
    assert stretches(run) == [(0, 0.5)]


def test_what_is_told_compares_with_the_beginning_and_with_the_last_time(run: Run) -> None:
    def told(config: Config) -> list[str]:
        return [line.replace("optimizer.learning_rate", "rate") for line in run.check(config, IDENTITY)]

    assert told(rate(0.1)) == []
    assert told(rate(0.2)) == ["changed since the run was begun: rate: 0.1 → 0.2"]
    run.record(rate(0.2), IDENTITY, 20)
    assert told(rate(0.2)) == ["changed since the run was begun: rate: 0.1 → 0.2"]
    assert told(rate(0.3)) == ["changed since the run was begun: rate: 0.1 → 0.3, at this start"]
    assert told(rate(0.1)) == ["changed at this start: rate: 0.2 → 0.1, as it was at first"]


def test_a_run_of_earlier_days_gets_its_history_when_it_goes_on(run: Run) -> None:
    (run.directory / "history.json").unlink()
    assert run.check(rate(0.2), IDENTITY) == [
        "changed since the run was begun: optimizer.learning_rate: 0.1 → 0.2"
    ]
    assert run.mend(IDENTITY, {"task.json": TASK}) == []
    assert not (run.directory / "history.json").exists()
    run.record(rate(0.2), IDENTITY, 20)
    assert stretches(run) == [(0, 0.1), (20, 0.2)]


def garbage(content: bytes) -> Callable[[bytes], bytes]:
    return lambda _: content


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": garbage(b""),
    "zeros": lambda content: bytes(len(content)),
    "half": lambda content: content[: len(content) // 2],
    "not UTF-8": garbage(b"\xff\xfe{}"),
    "another value": garbage(b"[1]"),
    "deep": garbage(b"[" * 100_000),
    "no keys": garbage(b"{}"),
    "a seed": lambda content: content.replace(b'"seed": 0', b'"seed": 1'),
    "a fingerprint": lambda content: content.replace(b"aaa", b"aba"),
    "a label": lambda content: content.replace(b"yes", b"yeS"),
}


@pytest.mark.parametrize("name", ["config.json", "corpus.json", "task.json", "history.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_one_damaged_file_is_made_again_as_it_was(run: Run, name: str, damage: str) -> None:
    run.record(rate(0.2), IDENTITY, 20, {"task.json": TASK})
    files = {path.name: path.read_bytes() for path in run.directory.iterdir()}
    path = run.directory / name
    path.write_bytes(DAMAGE[damage](files[name]))
    changed = path.read_bytes() != files[name]

    assert run.config() == rate(0.2)
    lines = run.check(rate(0.2), IDENTITY)
    assert run.read_file("task.json") == (TASK if not (changed and name == "task.json") else None)
    assert run.mend(IDENTITY, {"task.json": TASK}) == [name] * changed
    assert run.mend(IDENTITY, {"task.json": TASK}) == []
    if name != "history.json":
        assert {path.name: path.read_bytes() for path in run.directory.iterdir()} == files
        assert lines == ["changed since the run was begun: optimizer.learning_rate: 0.1 → 0.2"]
    assert run.config() == rate(0.2)


def test_no_flipped_bit_of_a_config_ends_a_run_or_changes_what_decides_shapes(run: Run) -> None:
    path = run.directory / "config.json"
    content = path.read_bytes()
    fixed = [key.name for key in schema().values() if key.fixed]
    for place in range(0, len(content), 29):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        assert not [key for key in fixed if value(run.config(), key) != value(rate(0.1), key)]
        assert run.check(rate(0.1), IDENTITY) == []


def test_both_config_and_history_lost_is_a_sentence(run: Run) -> None:
    for name in ("config.json", "history.json"):
        (run.directory / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"config\.json is not readable JSON .*; restore it from a copy\."):
        run.config()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0",
        b"[]",
        b'{"step": "3"}',
        b'{"step": 3, "validation": 1}',
        b'{"step": 1, "validation": {}, "best": 1}',
    ],
)
def test_damaged_results_are_none(run: Run, content: bytes) -> None:
    (run.directory / "results.json").write_bytes(content)
    assert run.results() == {}
