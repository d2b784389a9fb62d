"""--check: the plan of a training, as the training itself then goes; nothing is trained or written."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_support import SMALL, STEPS, Runner, parameters

from gpt1_jax.data.tokenizers.opening import load_tokenizer
from gpt1_jax.run import Run


def plan_of(runner: Runner, workdir: Path, **overrides: Any) -> tuple[dict[str, Any], str]:
    """Returns the plan, and what was told beside it."""
    code, out, err = runner.call("main", "--check", *runner._flags(workdir, overrides))
    assert code == 0, err
    return json.loads(out), err


def test_the_plan_is_that_of_the_run(runner: Runner, undisturbed: Path, tmp_path: Path) -> None:
    plan, told = plan_of(runner, tmp_path / "run")
    tokens = STEPS * SMALL["train.batch_size"] * SMALL["model.context_length"]
    assert (plan["kind"], plan["step"], plan["steps"], plan["tokens"]) == ("pretrain", 0, STEPS, tokens)
    # Of the run's padded table only the rows of its tokenizer count.
    arrays, pieces = parameters(undisturbed, STEPS), load_tokenizer(undisturbed / "tokenizer").vocab_size
    sizes = {name: array.size for name, array in arrays.items() if name.startswith("/params/")}
    rows, width = arrays["/params/tokens"].shape
    assert plan["parameters"] == sum(sizes.values()) - (rows - pieces) * width
    assert f"{plan['parameters']:,} parameters" in told and f"{tmp_path}/run, a new run" in told
    assert 3 * tokens * plan["parameters"] < plan["flops"] < 12 * tokens * plan["parameters"]
    assert plan["memory_gb"] > 0 and plan["seconds_estimated"] > 0 and plan["warnings"] == []


def test_the_beginning_and_the_end_of_a_run_are_told_in_lines(
    runner: Runner, undisturbed: Path, tmp_path: Path
) -> None:
    """Where it goes, what is read, what learns, from which weights, how long; then the best, and what comes next."""
    start = {"init_from": undisturbed, "train.num_steps": 2, "train.eval_every": 1}
    told = runner.run(tmp_path / "run", **start).splitlines()
    heads = [line.split()[0] for line in told]
    begun = heads.index("run")
    assert heads[begun : begun + 5] == ["run", "data", "model", "weights", "steps"]
    assert told[begun + 3] == f"weights  those of {undisturbed}"
    assert told[begun + 4].startswith("steps    2 of 64 tokens on cpu; about 1 second")
    assert not any(character in "".join(told) for character in "\x1b\r")
    assert [line for line in told if "  sample  “" in line and "” goes on “" in line]
    assert heads[-4:] == ["done", "best", "page", "next"]
    assert told[-1].startswith(f"next     python -m gpt1_jax.generate --workdir={tmp_path}/run ")


def test_a_plan_of_a_fine_tuning_says_where_the_weights_come_from(
    runner: Runner, undisturbed: Path, tmp_path: Path
) -> None:
    lines = [json.dumps({"text": "river " * (1 + i % 7), "label": i % 2}) + "\n" for i in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(lines))
    flags = {"finetune.kind": "classification", "data.source": f"files:{tmp_path}/texts.jsonl"}
    code, out, err = runner.call(
        "main", "--check", "--config=finetune:custom", f"--workdir={tmp_path}/run",
        f"--config.init_from={undisturbed}", *(f"--config.{key}={value}" for key, value in flags.items()),
    )  # fmt: skip
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["kind"], plan["task"], plan["steps"]) == ("finetune", "custom", 3 * 2)
    assert f"weights  those of {undisturbed}; what is new is drawn at random, seed 0" in err.splitlines()
    assert "loss     L2 (the task's) + 0.5 · L1 (the language model's)" in err.splitlines()
    assert not (tmp_path / "run").exists()


def test_a_plan_of_a_run_says_where_it_goes_on_and_leaves_it_as_it_is(
    runner: Runner, undisturbed: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    plan, told = plan_of(runner, undisturbed, **{"train.num_steps": STEPS + 10})
    assert (plan["step"], plan["steps"]) == (STEPS, STEPS + 10) and f"resuming at step {STEPS}" in told
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("data.source", "text:absent.txt"), ("model.d_model", 31), ("seed", 5)],
)
def test_what_a_run_would_refuse_its_check_refuses(
    runner: Runner, undisturbed: Path, tmp_path: Path, key: str, value: object
) -> None:
    workdir = undisturbed if key == "seed" else tmp_path / "run"
    flags = runner._flags(workdir, {key: value})
    code, out, err = runner.call("main", "--check", *flags)
    assert (code, out) == (2, "") and key in err
    assert Run(str(workdir)).exists() == (key == "seed")
