"""The table of benchmarks.pretraining, from run directories that are there already; and one real round."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_support import ROOT

from benchmarks.pretraining import make_table


def put(output: Path, variant: str, *bits: float) -> None:
    for seed, value in enumerate(bits):
        place = output / variant / str(seed)
        place.mkdir(parents=True)
        (place / "results.json").write_text(json.dumps({"validation": {"bits_per_byte": value}}))


def test_variants_are_compared_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    put(tmp_path, "full", 2.0, 2.1, 2.2)
    put(tmp_path, "relu", 2.1, 2.2)
    put(tmp_path, "pre", 1.9, 2.3)
    # A run that has not ended yet.
    (tmp_path / "swish/0").mkdir(parents=True)
    assert make_table(tmp_path).splitlines() == [
        "| | bits a byte | difference from full (95 %) |",
        "|---|---|---|",
        "| full | 2.100 |  |",
        "| relu | 2.150 | +0.100 (+0.100 to +0.100; 2 seeds) |",
        "| pre | 2.100 | not resolved: +0.050 (-1.856 to +1.956; 2 seeds) |",
    ]


def test_a_variant_without_a_seed_of_full_is_not_compared(tmp_path: Path) -> None:
    put(tmp_path, "relu", 2.1)
    assert make_table(tmp_path).splitlines()[2:] == ["| relu | 2.100 |  |"]


def call(*flags: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benchmarks.pretraining", *flags]
    return subprocess.run(line, cwd=ROOT, text=True, capture_output=True, timeout=600)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "--output=DIR is missing"),
        (["--output=a", "--variants=relo"], "--variants=relo is no variant; choose of full, relu"),
    ],
    ids=["nothing", "variant"],
)
def test_wrong_input_is_told(flags: list[str], told: str) -> None:
    process = call(*flags)
    assert process.returncode == 2 and told in process.stderr and "Traceback" not in process.stderr


@pytest.mark.slow
def test_two_variants_are_trained_once_and_compared(tmp_path: Path) -> None:
    flags = (f"--output={tmp_path}", "--variants=full,pre", "--seeds=0,1", "--steps=2")
    first = call(*flags)
    assert first.returncode == 0 and first.stderr.count("+ -m") == 4, first.stderr
    assert "| full |" in first.stdout and "| pre |" in first.stdout and "; 2 seeds)" in first.stdout
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/results.json")}
    again = call(*flags)
    assert again.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in written} == written
