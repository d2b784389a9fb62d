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
