"""The families side by side: table and picture of runs that are there already, wrong input, and one real round."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_support import ROOT

from benchmarks.families import Column, collect, draw, make_table

COLUMNS = {
    "demo_names": Column({"gpt1": [0.5, 0.75, 0.7], "bert": [0.25]}, {"word_majority": 0.8}),
    "demo_genre": Column({"bert": [0.4]}, {"majority": 0.2, "tfidf": 0.6}),
}
RESULTS = {
    "gpt1": {"loss": 4.0, "perplexity": 54.6, "bits_per_byte": 1.5},
    "bert": {"loss": 3.0, "perplexity": 20.09},
}


def call(*flags: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benchmarks.families", *flags]
    return subprocess.run(line, cwd=ROOT, text=True, capture_output=True, timeout=600)


def test_the_table_has_means_and_half_ranges_over_seeds_and_the_baselines() -> None:
    assert make_table(RESULTS, COLUMNS).splitlines() == [
        "| | held-out text | demo_names, f1 | demo_genre, accuracy |",
        "|---|---|---|---|",
        "| GPT-1 | 1.500 bits a byte | 65.0 ± 12.5 |  |",
        "| BERT: these, both ways, fills masks | perplexity 20.1 of a piece | 25.0 | 40.0 |",
        "| word_majority | | 80.0 |  |",
        "| majority | |  | 20.0 |",
        "| tfidf | |  | 60.0 |",
    ]


def test_the_score_of_a_run_is_that_of_its_predictions_and_others_are_left_out(tmp_path: Path) -> None:
    for seed, results in (("0", {"predictions": {"f1": 0.5}}), ("1", {"validation": {"f1": 0.9}})):
        place = tmp_path / "demo_names" / "gpt2" / seed
        place.mkdir(parents=True)
        (place / "results.json").write_text(json.dumps(results))
    assert collect(tmp_path / "demo_names") == {"gpt2": [0.5]}


def test_the_picture_has_a_panel_a_task_with_its_seeds_and_best_baseline() -> None:
    panels = draw(COLUMNS).axes
    assert [panel.get_title() for panel in panels] == ["demo_names, f1", "demo_genre, accuracy"]
    assert [len(line.get_xdata()) for line in panels[0].get_lines()] == [1, 3, 2]
    assert [text.get_text().strip() for text in panels[1].texts] == ["tfidf"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "--output=DIR is missing"),
        (["--output=a", "--models=gpt3"], "--models=gpt3 is no model here; choose of gpt1"),
        (["--output=a", "--tasks=demo_nams"], "demo_names"),
    ],
    ids=["nothing", "model", "task"],
)
def test_wrong_input_is_told(flags: list[str], told: str) -> None:
    done = call(*flags)
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_round_is_made_once_and_gone_on_with(tmp_path: Path) -> None:
    sizes = (
        "model.d_model=32",
        "model.d_ff=64",
        "model.num_layers=1",
        "train.eval_batches=2",
        "train.batch_size=2",
    )
    flags = [f"--pretrain={size}" for size in sizes]
    flags += [
        "--tasks=demo_names",
        "--seeds=0",
        "--steps=2",
        "--examples=16",
        "--finetune=train.num_epochs=1",
    ]
    first = call(f"--output={tmp_path}", "--models=bert", *flags)
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("gpt1_jax.main") == 2
    again = call(f"--output={tmp_path}", "--models=bert,gpt2", *flags)
    assert again.returncode == 0 and again.stderr.count("gpt1_jax.main") == 2, again.stderr
    assert "BERT" in again.stdout and "GPT-2" in again.stdout and "word_majority" in again.stdout
    facts = json.loads((tmp_path / "families.json").read_text())
    assert facts["tasks"]["demo_names"]["models"].keys() == {"gpt2", "bert"}
    assert (tmp_path / "families.svg").read_text().count("demo_names") == 1
