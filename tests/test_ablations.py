"""The ablations' table and picture, from run directories that are there already; and one real round."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_support import ROOT

from benchmarks.ablations import collect, draw_transfer, make_table


def put(output: Path, place: str, **scores: float) -> None:
    (output / place).mkdir(parents=True)
    (output / place / "results.json").write_text(json.dumps({"validation": scores}))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for seed, score in enumerate((0.5, 0.75, 0.7)):
        put(tmp_path, f"demo_genre/full/{seed}", accuracy=score)
    put(tmp_path, "demo_genre/no_pretraining/0", accuracy=0.25)
    put(tmp_path, "demo_genre/majority", accuracy=0.2)
    put(tmp_path, "cola/full/0", accuracy=0.9, matthews_correlation=0.125)
    put(tmp_path, "cola/full/1", accuracy=0.9, matthews_correlation=0.5)
    (tmp_path / "cola/full/1/config.json").touch()  # a fine-tuning that has not written its predictions yet
    for blocks in (0, 1, 10):
        put(tmp_path, f"cola/transfer_{blocks}/0", accuracy=0.0, matthews_correlation=blocks / 100)
    return tmp_path


def test_the_table_has_means_and_half_ranges_of_the_first_metric(output: Path) -> None:
    assert make_table(collect(output)).splitlines() == [
        "| | cola (matthews_correlation) | demo_genre (accuracy) |",
        "|---|---|---|",
        "| full | 12.5 | 65.0 ± 12.5 (3) |",
        "| no_pretraining |  | 25.0 |",
        "| majority |  | 20.0 |",
        "| transfer_0 | 0.0 |  |",
        "| transfer_1 | 1.0 |  |",
        "| transfer_10 | 10.0 |  |",
    ]


def test_a_cell_tells_the_interval_of_examples_and_seeds_where_it_is_known() -> None:
    table = make_table(
        {("rte", "full"): [0.5, 0.75], ("rte", "authors"): [0.5]}, {("rte", "full"): (0.525, 0.7)}
    )
    assert "| full | 62.5 ± 12.5 (2) [52.5 to 70.0] |" in table and "| authors | 50.0 |" in table


def test_the_score_of_a_fine_tuning_is_that_of_its_predictions(tmp_path: Path) -> None:
    place = tmp_path / "demo_genre/full/0"
    place.mkdir(parents=True)
    results = {"validation": {"accuracy": 0.5}, "predictions": {"step": 3, "accuracy": 0.75}}
    (place / "results.json").write_text(json.dumps(results))
    assert collect(tmp_path) == {("demo_genre", "full"): [0.75]}


def test_the_picture_is_drawn(output: Path) -> None:
    draw_transfer(collect(output), output / "transfer.png")
    assert (output / "transfer.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "--init_from=RUN and --output=DIR are both needed"),
        (
            ["--init_from=a", "--output=b", "--variants=most"],
            "--variants=most is not possible; choose of full",
        ),
        (["--init_from=a", "--output=b", "--variants=lstm"], "--variants=lstm is not possible"),
        (["--init_from=a", "--output=b", "--tasks=colla"], "cola"),
    ],
    ids=["nothing", "variant", "lstm", "task"],
)
def test_wrong_input_is_told(flags: list[str], told: str) -> None:
    line = [sys.executable, "-m", "benchmarks.ablations", *flags]
    done = subprocess.run(line, cwd=ROOT, text=True, capture_output=True, timeout=120)
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
