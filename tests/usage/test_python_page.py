"""docs/python.md runs from top to bottom, with smaller models and fewer steps than it asks for."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
from command_support import ROOT, SMALL, make_text

import gpt1_jax

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.slow]


def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "texts").mkdir()
    for number in range(4):
        (tmp_path / "texts" / f"{number}.txt").write_text(make_text(number, 200))
    fewer = {
        "train.num_steps": 2,
        "train.eval_every": 2,
        "train.checkpoint_every": 2,
        "data.source": "text:texts/*.txt",
    }
    small: dict[str, Any] = SMALL | fewer | {"model.context_length": 32}
    monkeypatch.chdir(tmp_path)
    # Tokens and programs are cached there.
    monkeypatch.setenv("HOME", str(tmp_path))
    one: dict[str, Any] = {"mesh": {"data": 1}}
    pretrain, finetune = gpt1_jax.pretrain, gpt1_jax.finetune

    def pretrain_less(config: str, workdir: str) -> Any:
        # These texts have few words.
        pieces = {"data.vocab_size": 60} if config == "tiny_bert" else {}
        return pretrain(config, workdir, **small | pieces, **one)

    monkeypatch.setattr(gpt1_jax, "pretrain", pretrain_less)
    monkeypatch.setattr(gpt1_jax, "finetune", functools.partial(finetune, **one))
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) > 6 and names["reader"].step == 1
    # What the page says of its results.
    run, text = gpt1_jax.load("runs/pretrain-tiny"), "In the beginning"
    assert run.decode(run.encode(text)) == text
    assert gpt1_jax.load("runs/reviews").predict("the song").keys() == {"label", "probabilities"}
