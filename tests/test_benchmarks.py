"""The benchmarks' harness computes what it says, and each benchmark runs at its smallest."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_support import ROOT, make_text
from vocabulary_support import golden

from benchmarks import estimate, gpu, page
from benchmarks.apart import Apart
from benchmarks.timing import Spread, conclude, measure
from gpt1_jax.errors import Fault, UserError
from gpt1_jax.training.speed import training_flops_per_token


class Clock:
    """Moves only when a side works; remembers who worked."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def side(self, name: str, *seconds: float) -> Callable[[], None]:
        """Makes a side whose calls take these seconds, the last ones over and over."""
        left = list(seconds)

        def work() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work


def test_ratios_are_taken_round_by_round() -> None:
    clock = Clock()
    # Call by call, each machine's disturbance slows both sides of a round; the first call of a turn does not count.
    sides = {
        "ours": clock.side("ours", 100, 1, 100, 2, 100, 10),
        "theirs": clock.side("theirs", 100, 2, 100, 4, 100, 30),
    }
    ours, theirs = measure(sides, rounds=3, work=60, unit="tokens", clock=clock)
    assert ours.seconds == Spread(2, 1, 10)
    assert ours.speed == Spread(30, 6, 60)
    assert ours.first_is == Spread(1, 1, 1)
    assert theirs.seconds == Spread(4, 2, 30)
    assert theirs.first_is == Spread(2, 2, 3)
    assert (ours.rounds, theirs.rounds, theirs.first) == (3, 3, "ours")


def test_sides_take_turns_in_alternating_order() -> None:
    clock = Clock()
    measure({"a": clock.side("a", 1), "b": clock.side("b", 1)}, rounds=3, clock=clock)
    assert "".join(clock.calls) == "aabb" + "bbaa" + "aabb"


def test_slow_sides_take_part_in_fewer_rounds() -> None:
    clock = Clock()
    sides = {
        "ours": clock.side("ours", 9, 1, 9, 3, 9, 5),
        "slow": clock.side("slow", 6),
        "never": clock.side("n", 1),
    }
    rows = measure(sides, {"ours": 3, "slow": 1, "never": 0}, clock=clock)
    assert [row.side for row in rows] == ["ours", "slow"]
    assert rows[0].seconds == Spread(3, 1, 5)
    assert rows[1].first_is == Spread(6, 6, 6)  # against the round it took part in
    assert "n" not in clock.calls


def test_sides_may_do_different_work() -> None:
    clock = Clock()
    sides = {"batches": clock.side("batches", 2), "step": clock.side("step", 2)}
    batches, step = measure(sides, 1, {"batches": 100, "step": 4}, "tokens", clock=clock)
    assert (batches.speed.median, step.speed.median, step.first_is.median) == (50, 2, 25)
    assert str(batches) == f"{'batches':22} {'50':>9} tokens/s  (2 to 2 s)"
    assert str(step).endswith("2 tokens/s  (2 to 2 s)  batches is 25.00 (25.00 to 25.00) times as fast")


def test_the_last_line_is_json_with_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure({"a": lambda: None}, rounds=1)
    conclude(rows=[asdict(row) for row in rows], preset="tiny")
    found = json.loads(capsys.readouterr().out)
    assert found["preset"] == "tiny"
    assert found["rows"][0]["seconds"].keys() == {"median", "low", "high"}
    assert found["machine"].keys() >= {"command", "processor", "cores", "python", "jax", "torch"}


def test_a_side_apart_works_when_it_is_asked_and_its_end_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import os, sys
from benchmarks.apart import serve
calls = []
def work():
    print("a library says something")
    calls.append(1)
    len(calls) < 3 or os._exit(9)
print("and before, too")
serve({"given": sys.argv[1:]}, work)
"""
    (tmp_path / "working.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "argv", ["command", "--rounds=2"])
    with Apart("working", "ours", "--more") as side:
        assert side.ready == {"given": ["--rounds=2", "--more", "--serve=ours"]}
        assert len(measure({"ours": side}, rounds=1)) == 1
        for _ in range(2):
            with pytest.raises(Fault, match="The process of ours ended with 9"):
                side()


def test_the_page_runs_only_what_has_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def play(line: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append(line[2:])
        facts = dict.fromkeys(("processor", "cores", "python", "jax", "torch", "transformers"), "?")
        last = json.dumps({"machine": facts | {"load_before": 0.04}})
        return subprocess.CompletedProcess(line, 0, f"two times as fast\n{last}\n", "")

    monkeypatch.setattr(page.subprocess, "run", play)
    monkeypatch.setattr(page, "_OPENAI", SimpleNamespace(value=None))
    for commands in (["growth"], ["growth", "usage --texts=64"]):
        text = page.write_page(tmp_path, "abc1234", commands).read_text()
    picture = tmp_path / "abc1234" / "growth.png"
    assert ran == [["benchmarks.growth", f"--output={picture}"], ["benchmarks.usage", "--texts=64"]]
    assert "commit abc1234" in text and "load before 0.0" in text
    assert text.endswith("## usage --texts=64\n\n```\ntwo times as fast\n```\n")


def test_the_page_is_of_a_commit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is in no repository"):
        page.find_commit(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-C", str(tmp_path)]
    (tmp_path / "a").touch()
    for command in (["init", "-q"], ["add", "a"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], check=True)
    assert page.find_commit(tmp_path).isalnum()
    (tmp_path / "a").write_text("b")
    with pytest.raises(UserError, match="commit them first"):
        page.find_commit(tmp_path)


# ── Each, at its smallest ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A source of 21 parts, enough for several processes to share."""
    directory = tmp_path_factory.mktemp("texts")
    for number in range(21):
        (directory / f"{number:02}.txt").write_text(make_text(number, 300))
    return f"text:{directory}/*.txt"


def run(name: str, *arguments: str, path: Path = ROOT) -> dict[str, Any]:
    """Runs a benchmark by its command, with little optimized, and returns its last line."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment["PYTHONPATH"] = f"{path}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    environment.pop("XLA_FLAGS", None)
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_fastest_form_of_attention_is_none_that_errs() -> None:
    def form(name: str, milliseconds: float, *errors: float, dropout: float = 0.1) -> dict[str, Any]:
        return {"form": name, "dropout": dropout, "milliseconds": milliseconds, "errors": list(errors)}

    plain = form("plain", 5, 0.002, 0.004)
    forms = [form("wrong", 1, 0.002, 0.5), form("other", 2, 0.002, 0.0045), plain]
    forms += [form("plain", 4, 0.002, 0.004, dropout=0), form("cudnn", 3, 0.002, 0.004, dropout=0)]
    assert gpu.fastest(forms, 0.1) == "other" and gpu.fastest(forms, 0) == "cudnn"


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="the other side needs transformers")
def test_gpu_without_what_such_a_machine_lacks(tmp_path: Path) -> None:
    lacking = ("tensorflow_datasets", "grain", "array_record", "tensorboardX", "pythonbible")
    program = f"import sys; sys.modules.update(dict.fromkeys({lacking}))"
    (tmp_path / "sitecustomize.py").write_text(program)
    found = run("gpu", "--tiny", "--batches=1", "--steps=1", path=tmp_path)
    assert {(form["form"], form["dropout"]) for form in found["forms"]} == {
        (form, rate) for form in ("plain", "chunked") for rate in (0.0, 0.1)
    }
    assert found["fastest"].keys() == {"dropout 0.0", "dropout 0.1"}
    (step,) = found["steps"]
    assert [row["side"] for row in step["rows"]] == ["gpt1_jax", "torch compiled"]
    assert step["bytes"]["gpt1_jax"] > 0


def test_published_models_are_as_large_as_they_are_called() -> None:
    for published in estimate.PUBLISHED:
        config = estimate.settings(published, 4)
        parameters = training_flops_per_token(config.model, config.data.vocab_size) / 6
        assert parameters == pytest.approx(float(published.name.removesuffix("B")) * 1e9, rel=0.05)
        assert config.train.batch_size == 4 * published.rows


@pytest.mark.slow
def test_data(texts: str) -> None:
    found = run(
        "data", "--preset=tiny", f"--source={texts}", "--vocab_size=300", "--step_batch=1", "--rounds=1", "--batches=2"
    )  # fmt: skip
    batches, step, all_cores, one_core = found["rows"]
    assert found["text"]["documents"] == 21
    assert batches["speed"]["median"] > step["speed"]["median"] > 0
    assert (all_cores["unit"], one_core["side"]) == ("MB", "1 core")


@pytest.mark.slow
def test_tokenizing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(row["text"] for row in golden()))
    found = run("tokenizing", f"--source=text:{tmp_path}/a.txt", "--vocab_size=600", "--rounds=2")
    rows = {row["side"]: row["speed"]["median"] for row in found["rows"]}
    libraries = {"byte_bpe": "tokenizers", "wordpiece": "tokenizers", "sentencepiece": "its library"}
    sides = {
        side for name, library in libraries.items() for side in (name, f"{name}, new", f"{name}: {library}")
    }
    assert rows.keys() - {"byte_bpe: tiktoken"} == sides
    assert min(rows.values()) > 0 and found["megabytes"] > 0.05
    assert found["training"].keys() == libraries.keys()


@pytest.mark.slow
def test_startup(texts: str) -> None:
    found = run(
        "startup", "--preset=tiny", f"--source={texts}", "--vocab_size=300", "--batch=1", "--rounds=1"
    )
    assert [row["side"] for row in found["steps"]] == ["unroll 0", "unroll 1"]
    assert found["ahead_after_steps"].keys() == {"unroll 1, cold", "unroll 1, warm"}
    starts = {row["side"]: row for row in found["starts"]}
    assert starts.keys() == {f"unroll {n}, {kind}" for n in (0, 1) for kind in ("cold", "warm")}
    for row in starts.values():
        phases = sum(phase["median"] for phase in row["phases"].values())
        assert phases == pytest.approx(row["seconds"]["median"], abs=2)
    cold, warm = (
        starts[f"unroll 0, {kind}"]["phases"]["state and compiling"]["median"] for kind in ("cold", "warm")
    )
    assert warm < cold  # the cache was used


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="the other side needs transformers")
def test_finetuning(tmp_path: Path) -> None:
    found = run(
        "finetuning", "--preset=tiny", "--tasks=demo_entailment,demo_same_verse", "--vocab_size=400",
        f"--cache_dir={tmp_path}", "--batch=2", "--batches=2", "--rounds=1",
    )  # fmt: skip
    assert [task["task"] for task in found["tasks"]] == ["demo_entailment", "demo_same_verse"]
    for task in found["tasks"]:
        assert task["rows"][0]["side"] == "gpt1_jax"
        assert task["rows"][-1]["side"] == "transformers: context"
        assert len(task["widths"]) == 2


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="the other sides need transformers")
def test_usage(tmp_path: Path) -> None:
    found = run(
        "usage", "--preset=tiny", "--texts=64", "--prompts=5", "--vocab_size=400", f"--cache_dir={tmp_path}",
        "--rounds=1",
    )  # fmt: skip
    uses = {
        use: [row["side"] for row in rows] for use, rows in groupby(found["rows"], lambda row: row["use"])
    }
    assert uses.keys() == {"generate", "predict", "evaluate", "score"}
    for sides in uses.values():
        assert sides[0] == "gpt1_jax" and sides[1].startswith("transformers")


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="the other sides need transformers")
def test_training_and_memory() -> None:
    found = run("training", "--preset=tiny", "--batch=1", "--rounds=1")
    assert [row["side"] for row in found["rows"]] == ["gpt1_jax", "transformers", "torch"]
    peaks = run("memory", "--preset=tiny", "--batch=1")["peak_bytes"]
    assert peaks.keys() == {"gpt1_jax", "transformers", "torch"}
    assert min(peaks.values()) > 100_000_000  # no library fits into less


@pytest.mark.slow
def test_growth(tmp_path: Path) -> None:
    picture = tmp_path / "growth.png"
    found = run("growth", "--rounds=1", "--largest=1000000", f"--output={picture}")
    assert {point["size"] for point in found["points"]} == {"tokens", "documents", "steps", "parameters"}
    assert min(point["seconds"] for point in found["points"]) > 0
    assert found["exponents"]["draw a batch, by documents"] < 0.5
    assert picture.stat().st_size > 1000


@pytest.mark.slow
def test_scaling(tmp_path: Path) -> None:
    picture = tmp_path / "scaling.png"
    found = run("scaling", "--sizes=layers", "--rounds=1", f"--output={picture}")
    assert [point["value"] for point in found["points"]] == [2, 4, 8, 16]
    assert 0.6 < found["exponents"]["layers flops"] < 1.0  # the output's are there without any layer
    assert picture.read_bytes().startswith(b"\x89PNG")
