"""Pre-training by its command: what a run leaves, and that killed, stopped and copied runs end alike."""

import gzip
import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from command_support import STEPS, Runner, assert_same_end, last_step, make_text, parameters, read_metrics

from gpt1_jax.data.tokenizers.opening import load_tokenizer
from gpt1_jax.pages.facts import read_facts
from gpt1_jax.pages.page import make_page
from gpt1_jax.run import Run


def test_the_run_directory_holds_everything(undisturbed: Path) -> None:
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["model"]["d_model"] == 32 and config["train"]["num_steps"] == STEPS
    tokenizer = load_tokenizer(undisturbed / "tokenizer")
    assert tokenizer.decode(tokenizer.encode("the old song\n")) == "the old song\n"
    steps = sorted(int(path.name) for path in (undisturbed / "checkpoints").iterdir())
    best = json.loads((undisturbed / "results.json").read_text())["best"]["step"]
    # The three newest, and what was or is the best: it is told after the last save.
    assert steps[-3:] == [STEPS - 8, STEPS - 4, STEPS] and best in steps and len(steps) <= 4
    assert list((undisturbed / "tensorboard").iterdir())
    # The page was written after the last evaluation.
    page = read_facts(Run(str(undisturbed)))
    assert [step for step, _ in page.samples] == list(range(10, STEPS + 1, 10))
    assert (undisturbed / "report.html").read_bytes() == make_page([page]).encode()

    entries = read_metrics(undisturbed)
    train = [entry for entry in entries if entry["kind"] == "train"]
    held_out = [entry for entry in entries if entry["kind"] == "eval"]
    assert [entry["step"] for entry in train] == list(range(1, STEPS + 1))
    assert [entry["step"] for entry in held_out] == list(range(10, STEPS + 1, 10))
    for entry in train:
        assert {"perplexity", "learning_rate", "grad_norm", "tokens_per_second"} <= entry.keys()
        assert "mfu" not in entry  # the CPU's peak is not known
        assert entry["perplexity"] == pytest.approx(np.exp(entry["loss"]))
    assert train[0]["learning_rate"] == 0 and train[5]["learning_rate"] == pytest.approx(1e-3)
    assert held_out[-1]["loss"] < held_out[0]["loss"] < np.log(300)

    results = json.loads((undisturbed / "results.json").read_text())
    assert (results["kind"], results["step"]) == ("pretrain", STEPS)
    assert results["validation"]["loss"] == held_out[-1]["loss"]
    assert results["best"]["loss"] == min(entry["loss"] for entry in held_out)
    assert {"loss", "perplexity", "bits_per_byte"} <= results["validation"].keys()


@pytest.mark.parametrize("overrides", [{}, {"train.num_steps": 30, "optimizer.learning_rate": 0.5}])
def test_a_run_that_is_done_says_so_and_nothing_changes(
    runner: Runner, undisturbed: Path, overrides: dict[str, Any]
) -> None:
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}

    before = files()
    said = runner.run(undisturbed, **overrides)
    assert f"done: step {STEPS} of {overrides.get('train.num_steps', STEPS)}" in said
    assert files() == before


def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(runner: Runner, undisturbed: Path) -> None:
    workdir, moments, killed = runner.directory / "killed", random.Random(0), 0
    for step in (moments.randrange(2, 10), moments.randrange(14, 20), moments.randrange(24, 32)):
        code, _ = runner.interrupt(workdir, signal.SIGKILL, step, moments.uniform(0, 0.05))
        killed += code == -signal.SIGKILL
    # What the last had still to say may have fitted into the pipe.
    assert killed >= 2
    runner.run(workdir)
    assert_same_end(workdir, undisturbed)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(x, marks=pytest.mark.slow) for x in (signal.SIGINT, signal.SIGHUP))],
)
def test_a_signal_saves_and_says_how_to_go_on(
    runner: Runner, undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    workdir = tmp_path / "stopped"
    code, said = runner.interrupt(workdir, number, 9, 0.0)
    assert code == 128 + number, said
    assert "leaves without" in said.splitlines()[-2]
    assert "run the same command again" in said.splitlines()[-1]
    stopped = last_step(workdir)
    assert 9 <= stopped < STEPS
    assert str(stopped) in {path.name for path in (workdir / "checkpoints").iterdir()}
    assert f"resuming at step {stopped}" in runner.run(workdir)
    assert_same_end(workdir, undisturbed)


def test_init_from_begins_with_the_other_runs_parameters(runner: Runner, undisturbed: Path) -> None:
    workdir = runner.directory / "second"
    still = {"optimizer.learning_rate": 0.0, "train.num_steps": 1, "init_from": undisturbed}
    runner.run(workdir, **still)
    entries = {entry["kind"]: entry for entry in read_metrics(workdir)}
    assert entries["eval"]["loss"] == read_metrics(undisturbed)[-1]["loss"]
    assert entries["train"]["step"] == 1
    ours, theirs = parameters(workdir, 1), parameters(undisturbed, STEPS)
    for name in [name for name in theirs if "params" in name]:
        assert ours[name].tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"model.num_layers": 2, "train.num_steps": 1}, "model.num_layers"),
        ({"init_from": "/nowhere/run"}, "/nowhere/run"),
    ],
)
def test_init_from_a_run_that_does_not_fit_is_refused_in_a_sentence(
    runner: Runner, undisturbed: Path, overrides: dict[str, Any], told: str
) -> None:
    workdir = runner.directory / "unfit"
    error = runner.run(workdir, expect=2, **{"init_from": undisturbed} | overrides)
    assert error.startswith("error: ") and error.count("\n") == 1 and told in error
    assert not (workdir / "config.json").exists()


def prepare_json_lines(directory: Path) -> dict[str, Any]:
    lines = [json.dumps({"text": make_text(i, 200)}) for i in range(5)]
    (directory / "corpus.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return {"data.source": f"text:{directory}/corpus.jsonl.gz"}


def prepare_tfds(directory: Path) -> dict[str, Any]:
    class Stories(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: object) -> dict[str, object]:
            return {"train": self._generate_examples(4), "validation": self._generate_examples(1)}

        def _generate_examples(self, count: int):
            for i in range(count):
                yield i, {"text": make_text(i + count, 200)}

    Stories(data_dir=str(directory), file_format="array_record").download_and_prepare()
    return {"data.source": "tfds:stories", "data.tfds_dir": directory}


@pytest.mark.parametrize("prepare", [prepare_json_lines, prepare_tfds])
def test_other_sources_train(
    runner: Runner, tmp_path: Path, prepare: Callable[[Path], dict[str, Any]]
) -> None:
    overrides = prepare(tmp_path) | {"train.num_steps": 2, "train.eval_every": 1000}
    runner.run(tmp_path / "run", **overrides)
    kinds = [(entry["step"], entry["kind"]) for entry in read_metrics(tmp_path / "run")]
    assert kinds == [(1, "train"), (2, "train"), (2, "eval")]
