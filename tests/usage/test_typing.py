"""What an editor and a type checker know of the package from outside: it is typed, and slips are seen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpt1_jax

ROOT = Path(__file__).parents[2]

RIGHT = """
from typing import assert_type
import numpy as np
import gpt1_jax

try:
    run = gpt1_jax.load("runs/books", step=500) or gpt1_jax.load("runs/books", step="best")
except gpt1_jax.UserError as error:
    raise SystemExit(f"{error}, says gpt1_jax {gpt1_jax.__version__}") from error
assert_type(run.encode("In the beginning"), list[int])
assert_type(run.logits(np.array([1, 2])), np.ndarray)
assert_type(run.generate("In", max_new_tokens=4, temperature=0)["samples"][0]["text"], str)
assert_type([found["prompt"] for found in run.generate(["In", "On"], seed=1)], list[str])
assert_type(run.predict([{"text": "a song"}])[0]["label"], str | int | float)
"""

WRONG = """
import gpt1_jax
run = gpt1_jax.load("runs/books")
gpt1_jax.load(3)
run.encode(["a"])
run.logits("text")
run.decode("text")
run.predict({"text": "a song"})
run.generate(5)
run.generate("In", max_tokens=4)
run.generate("In", temperature="hot")
run.generate("In")["text"]
"""


def lines_with_errors(directory: Path, program: str) -> set[int]:
    """The lines, from 1, of which pyright says that they are wrong."""
    (directory / "program.py").write_text(program.lstrip())
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "program.py"],
        cwd=directory, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == 1, done.stdout + done.stderr
    return {1 + error["range"]["start"]["line"] for error in found["generalDiagnostics"]}


@pytest.mark.slow
def test_a_program_of_ten_lines_has_types_and_its_slips_are_seen(tmp_path: Path) -> None:
    assert lines_with_errors(tmp_path, RIGHT) == set()
    assert lines_with_errors(tmp_path, WRONG) == set(range(3, 12))


def test_the_package_says_what_it_gives() -> None:
    assert set(gpt1_jax.__all__) == {"UserError", "__version__", "finetune", "load", "pretrain"}
    assert all(getattr(gpt1_jax, name) for name in gpt1_jax.__all__)
