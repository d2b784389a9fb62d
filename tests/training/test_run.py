"""The run directory: what may change between starts and what may not, and that one process trains in it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import tiny_config

from gpt1_jax.config import Config, schema
from gpt1_jax.errors import UserError
from gpt1_jax.overrides import flatten, from_dict, to_dict
from gpt1_jax.run import Run, inherit, write_json

IDENTITY = {"text": "aaa", "tokenizer": "bbb"}
BEGUN = {"model.num_layers": 1, "finetune.task": "cola"}
OTHER: dict[str, Any] = {
    "seed": 5,
    "model.activation": "relu",
    "model.kind": "lstm",
    "model.num_layers": 3,
    "model.num_heads": 8,
    "model.d_model": 64,
    "model.d_ff": 96,
    "model.context_length": 32,
    "data.vocab_size": 999,
    "model.norm": "pre",
    "model.norm_epsilon": 1e-6,
    "model.causal": False,
    "model.token_types": 2,
    "model.embedding_norm": True,
    "data.whole_words": True,
    "data.mask_documents": True,
    "data.restart_positions": True,
    "data.split_seed": 7,
    "train.batch_size": 16,
    "optimizer.name": "adamw",
    "finetune.task": "mrpc",
    "finetune.num_transfer_layers": 0,
    "finetune.scores": "regression",
    "finetune.softmax": "authors",
    "finetune.widths": 2,
    "finetune.batching": "shuffled",
    "finetune.remainder": "dropped",
    "finetune.max_examples": 77,
    "finetune.kind": "choice",
    "finetune.columns": "text=line",
    "finetune.positive_label": "1",
}
# What a key needs beside it.
BESIDE: dict[str, dict[str, Any]] = {
    "data.whole_words": {"model.causal": False},
    "data.restart_positions": {"data.mask_documents": True},
}


def begun_with(**overrides: Any) -> Config:
    return tiny_config(**BEGUN | overrides)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(str(tmp_path / "run"))
    assert not run.exists()
    run.record(begun_with(), IDENTITY)
    assert run.exists()
    return run


def test_the_config_comes_back_as_it_was(run: Run) -> None:
    assert run.config() == begun_with()
    assert run.check(begun_with(), IDENTITY) == []


@pytest.mark.parametrize("key", [key.name for key in schema().values() if key.fixed])
def test_what_decides_shapes_or_batches_is_refused_in_a_sentence(tmp_path: Path, key: str) -> None:
    run, begun = Run(str(tmp_path / "run")), begun_with(**BESIDE.get(key, {}))
    run.record(begun, IDENTITY)
    config = begun_with(**BESIDE.get(key, {}), **{key: OTHER[key]})
    for attempt in (run.changes, lambda config: run.check(config, IDENTITY)):
        with pytest.raises(UserError) as error:
            attempt(config)
        told = str(error.value)
        assert key in told and str(OTHER[key]) in told and "\n" not in told and told.endswith(".")
    assert run.config() == begun  # as before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.num_steps", 99),
        ("train.accumulation", 2),
        ("optimizer.learning_rate", 0.5),
        ("optimizer.clip_norm", 0.0),
        ("mesh.fsdp", 2),
        ("model.residual_dropout", 0.2),
        ("data.cache_dir", "/elsewhere"),
        ("data.source", "text:/moved/*.txt"),
        ("data.tokenizer", "sentencepiece:/moved.model"),
        ("init_from", "/moved/run"),
    ],
)
def test_other_keys_may_change_and_are_told(run: Run, key: str, value: Any) -> None:
    config = begun_with(**{key: value})
    (change,) = run.changes(config)
    assert change.startswith(f"{key}: ") and change.endswith(f" → {value}")
    assert run.check(config, IDENTITY) == [f"changed since the run was begun: {change}"]
    assert run.config() == begun_with()  # until there is something to do
    run.record(config, IDENTITY, 7)
    assert run.config() == config and run.changes(config) == []


def test_another_content_of_text_or_tokenizer_is_refused_each_by_its_own_key(run: Run) -> None:
    with pytest.raises(UserError, match=r"data\.source=demo does not have the content .* restore the text"):
        run.check(begun_with(), IDENTITY | {"text": "ccc"})
    with pytest.raises(UserError, match=r"data\.source=text:x .* \(data\.source=demo\); restore the text"):
        run.check(begun_with(**{"data.source": "text:x"}), IDENTITY | {"text": "ccc"})
    # The tokens of the text are others, too, which is no other text.
    other = begun_with(**{"data.tokenizer": "sentencepiece:x"})
    with pytest.raises(
        UserError, match=r"data\.tokenizer=sentencepiece:x differs .* set data\.tokenizer=sentence"
    ):
        run.check(other, {"text": "ccc", "tokenizer": "ddd", "validation": "eee"})


def test_another_validation_part_is_refused_unless_the_run_never_noted_its_own(run: Run) -> None:
    found = IDENTITY | {"validation": "eee"}
    assert run.check(begun_with(), found) == []
    run.record(begun_with(), found, 3)
    assert run.check(begun_with(), found) == []
    with pytest.raises(
        UserError, match=r"data\.source=demo does not have the validation part that .* was begun with"
    ):
        run.check(begun_with(), found | {"validation": "fff"})
    assert run.check(begun_with(), IDENTITY) == []


def test_a_run_to_start_from_may_move_but_neither_come_nor_go(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    run.record(tiny_config(), IDENTITY)
    with pytest.raises(UserError, match=r"init_from=None, not /other"):
        run.changes(tiny_config(init_from="/other"))


def test_a_second_process_is_refused_until_the_first_ends(run: Run) -> None:
    code = (
        f"from gpt1_jax.run import Run; run = Run({str(run.directory)!r}); "
        "run.lock(); print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"--workdir=.* is in use"):
            run.lock()
        first.kill()
        first.wait()
        run.lock()  # a killed process leaves nothing behind that would block


def test_a_lock_that_is_a_link_empties_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    Path(run.directory / ".lock").symlink_to(tmp_path / "precious")
    run.lock()
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_directory_without_a_run_or_with_a_broken_one_is_told(tmp_path: Path, run: Run) -> None:
    with pytest.raises(UserError, match="is not a run directory"):
        Run(str(tmp_path)).config()
    (run.directory / "config.json").write_text('{"seed": ')
    (run.directory / "history.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is not readable"):
        run.config()


def test_results_are_empty_and_then_what_was_written(run: Run) -> None:
    assert run.results() == {}
    results = {"step": 3, "validation": {"loss": 1.0}, "best": {"step": 2, "loss": 0.5}}
    run.write_results(results)
    assert run.results() == results
    assert json.loads((run.directory / "results.json").read_text()) == results


def test_a_write_that_fails_leaves_the_old_file(run: Run) -> None:
    with pytest.raises(TypeError):
        write_json(run.directory / "config.json", {"seed": object()})
    assert run.config() == begun_with()


# ── Runs of earlier days ─────────────────────────────────────────────────────────────────────────────────────

OLD_RUNS = Path(__file__).parents[1] / "old_runs"
STAGES = {"pretrain": tiny_config(), "finetune": tiny_config(**{"finetune.task": "cola"})}


def old_run(tmp_path: Path, stage: str) -> Run:
    """A run whose config.json was written before data.split_seed and finetune.positive_label were there."""
    (tmp_path / "old").mkdir()
    shutil.copy(OLD_RUNS / f"{stage}.json", tmp_path / "old" / "config.json")
    return Run(str(tmp_path / "old"))


@pytest.mark.parametrize("stage", STAGES)
def test_what_an_old_config_does_not_name_is_what_it_was_then(tmp_path: Path, stage: str) -> None:
    found = flatten(to_dict(old_run(tmp_path, stage).config()))
    written = flatten(json.loads((OLD_RUNS / f"{stage}.json").read_text()))
    later = found.keys() - written.keys()
    assert "data.split_seed" in later and found["data.split_seed"] == -1
    assert all(found[name] == schema()[name].before for name in later)
    assert written.items() <= found.items()


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_command_goes_on_with_an_old_run_and_again_after_that(tmp_path: Path, stage: str) -> None:
    run = old_run(tmp_path, stage)
    for _ in range(2):
        config = from_dict(inherit(to_dict(STAGES[stage]), str(run.directory)))
        assert run.check(config, {}) == []
        run.record(config, {})
        assert config.data.split_seed == -1


def test_another_value_than_the_default_is_refused_of_an_old_run(tmp_path: Path) -> None:
    run = old_run(tmp_path, "pretrain")
    asked = inherit(to_dict(tiny_config(**{"data.split_seed": 3})), str(run.directory))
    with pytest.raises(UserError, match=r"data\.split_seed=-1, not 3"):
        run.changes(from_dict(asked))
