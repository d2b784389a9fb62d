"""The paper's tables as one command: with the smallest model, and killed on the way on real sets."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_support import ROOT, Runner
from faults.commands import plain_environment
from large_data import LARGE, needs_large

from benchmarks import paper_runs, variants
from benchmarks.paper import write
from benchmarks.paper_runs import Plan, find_data, work
from gpt1_jax.usage.measuring import zero_shot

PARTS = ("train", "dev_matched", "dev_mismatched")
LABELS = ("entailment", "neutral", "contradiction")
TINY = ("train.num_epochs=1.0", "train.batch_size=8", "optimizer.learning_rate=1e-2")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """MNLI, the diagnostics with and without their labels, and DPR, a few examples each."""
    rows = [f"{number}\tthe old song\tthe river {label}\t{label}" for number, label in enumerate(LABELS * 3)]
    head = "index\tsentence1\tsentence2"
    texts = "\n".join((head, *(row.rpartition("\t")[0] for row in rows)))
    files = {f"MNLI/{name}.tsv": "\n".join((f"{head}\tgold_label", *rows)) for name in PARTS}
    files |= {f"MNLI/test_{group}.tsv": texts for group in ("matched", "mismatched")}
    files["AX/AX.tsv"] = texts
    files["AX/diagnostic-full.tsv"] = "\n".join(("index\tPremise\tHypothesis\tLabel", *rows))
    schema = "The river finds the song because it is old.\nit\nThe river,the song\nthe song\n"
    files |= {f"DPR/{name}.c.txt": schema for name in ("train", "test")}
    for name, text in files.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return tmp_path / "data"


def test_a_tiny_model_gets_all_tables_and_goes_on_where_it_stopped(
    runner: Runner, undisturbed: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def call(command: str, *flags: str) -> Iterator[str]:
        calls.append((command, *flags))
        done = runner.call(command, *flags)
        assert done.code == 0, done.stderr
        yield from done.stdout.splitlines()

    for module in (variants, paper_runs):
        monkeypatch.setattr(module, "call", call)
    output = tmp_path / "output"
    settings = (*TINY, f"data.cache_dir={runner.directory / 'cache'}")
    plan = Plan(output, str(undisturbed), None, ("0",), settings)
    sources, missing = find_data(data)
    assert set(sources) == {"mnli", "ax", "dprd"}
    # The pre-trained run's own scores, and mnli; the rest comes after an interruption.
    parts = work(plan, sources)
    for _ in range(2):
        next(parts)
    assert {flags[0] for flags in calls} == {"evaluate", "main"} and (
        output / "mnli/full/0/predictions"
    ).exists()
    page = write(output, sources, missing)
    done = len(calls)
    for _ in work(plan, sources):
        pass
    assert len(calls) == len(set(calls)) > done
    page = write(output, sources, missing)
    assert "- `rte` is left out: " in page and "- `ax`" not in page

    told = json.loads((output / "paper.json").read_text())
    assert told["full"]["MNLI-mm"]["part"] == "validation" and 0 <= told["full"]["MNLI-m"]["median"] <= 100
    assert list(told["transfer"]["MNLI-m"]) == ["0", "1"] and told["ablations"]["no_pretraining"]["MNLI"]
    assert told["zero_shot"]["transformer"]["DPRD"]
    with zipfile.ZipFile(output / "submission.zip") as archive:
        assert sorted(archive.namelist()) == ["AX.tsv", "MNLI-m.tsv", "MNLI-mm.tsv"]
        # The diagnostics here are the test set of MNLI, and its model predicts both.
        assert archive.read("AX.tsv") == archive.read("MNLI-m.tsv")
        assert archive.read("AX.tsv").startswith(b"index\tprediction\n0\t")
    # The command that a user gives for the diagnostics says the same.
    found = zero_shot(str(output / "mnli/full/0"), "ax", sources["ax"], None)
    assert told["full"]["diagnostics"]["median"] == pytest.approx(100 * found["matthews_correlation"])
    assert {path.name for path in output.glob("*.png")} == {"figure2_left.png", "figure2_right.png"}


@pytest.mark.slow
@needs_large("tasks/CoLA")
def test_real_sets_survive_kills(runner: Runner, undisturbed: Path, tmp_path: Path) -> None:
    """Each set is cut to a few of its rows."""
    for task, files in {
        "CoLA": ("train.tsv", "dev.tsv"),
        "RTE": ("train.tsv", "dev.tsv", "test.tsv"),
        "DPR": ("train.c.txt", "test.c.txt"),
    }.items():
        (tmp_path / "data" / task).mkdir(parents=True)
        for name in files:
            lines = (LARGE / "tasks" / task / name).read_text().split("\n")[:40]
            (tmp_path / "data" / task / name).write_text("\n".join(lines) + "\n")
    output = tmp_path / "output"
    settings = (*TINY, f"data.cache_dir={runner.directory / 'cache'}")
    command = [
        *(
            sys.executable,
            "-m",
            "benchmarks.paper",
            f"--init_from={undisturbed}",
            f"--data={tmp_path / 'data'}",
        ),
        *(f"--output={output}", "--seeds=0", *(f"--set={setting}" for setting in settings)),
    ]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=plain_environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    # Killed while the first fine-tuning runs, and that must have ended with it.
    first = start()
    deadline = time.monotonic() + 300
    while not (output / "cola/full/0/config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    again = start()
    page, told = again.communicate(timeout=900)
    assert again.returncode == 0, told[-2000:]
    assert "| CoLA | matthews_correlation | " in page and "left out: " in page and "not resolved: " in page
    lacking = page.splitlines()[-1]
    assert "RTE.tsv" not in lacking and "STS-B.tsv" in lacking
    assert (output / "submission/RTE.tsv").read_text().startswith("index\tprediction\n0\t")
    # A third time there is nothing to do.
    last = start()
    assert last.communicate(timeout=300)[0] == page and last.returncode == 0
