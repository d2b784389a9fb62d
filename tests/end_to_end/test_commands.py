"""The smaller commands, on a run that was trained by its own."""

import json
from pathlib import Path

import pytest
from command_support import STEPS, Runner

from gpt1_jax.data.tokenizers.opening import load_tokenizer


def test_evaluate_measures_what_training_would(runner: Runner, undisturbed: Path) -> None:
    """The figure is over all held-out tokens; the run itself looked at a part of them."""
    code, out, err = runner.call("evaluate", f"--workdir={undisturbed}")
    assert code == 0, err
    found = json.loads(out)
    whole = runner.directory / "whole"
    runner.run(whole, **{"train.eval_batches": 0, "train.eval_every": STEPS})
    expected = json.loads((whole / "results.json").read_text())["validation"]
    assert found["step"] == STEPS
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_evaluate_measures_all_of_another_text(runner: Runner, undisturbed: Path, tmp_path: Path) -> None:
    text = "the old song finds a river. " * 40
    (tmp_path / "other.txt").write_text(text)
    code, out, err = runner.call(
        "evaluate", f"--workdir={undisturbed}", f"--source=text:{tmp_path}/other.txt"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["bytes"] == len(text)
    tokens = len(load_tokenizer(undisturbed / "tokenizer").encode(text))
    assert (
        tokens <= found["tokens"] <= tokens + 6
    )  # an end piece behind each part, a piece cut in two between them


def test_tokenize_there_and_back(runner: Runner, undisturbed: Path) -> None:
    lines = ["the old song", "", "a\0b", "\0", "  two  spaces, \tTAB \u2581 \U0001f600 </s>"]
    text = "".join(line + "\n" for line in lines)
    code, ids, err = runner.call("tokenize", f"--workdir={undisturbed}", text=text)
    assert code == 0, err
    tokenizer = load_tokenizer(undisturbed / "tokenizer")
    assert [json.loads(line) for line in ids.splitlines()] == [tokenizer.encode(line) for line in lines]
    model = undisturbed / "tokenizer" / "sentencepiece.model"
    code, back, err = runner.call("tokenize", f"--tokenizer=sentencepiece:{model}", "--decode", text=ids)
    assert code == 0 and back == text, err
    # Each line gives one, an empty one too.
    code, back, err = runner.call("tokenize", f"--workdir={undisturbed}", "--decode", text=f"\n{ids}\n \n")
    assert code == 0 and back == f"\n{text}\n\n", err


def test_prepare_makes_what_training_finds(runner: Runner, tmp_path: Path) -> None:
    flags = (f"--source={runner.source}", f"--output={tmp_path}/tokens", "--vocab_size=300")
    code, out, err = runner.call("prepare", *flags)
    assert code == 0 and (Path(out.strip()) / "manifest.json").exists(), err
    said = runner.run(tmp_path / "run", **{"data.cache_dir": tmp_path / "tokens", "train.num_steps": 1})
    assert "reusing the tokens" in said


@pytest.mark.parametrize(
    ("module", "flags", "text", "names"),
    [
        ("evaluate", [], "", "--workdir"),
        ("evaluate", ["--workdir=nowhere"], "", "nowhere"),
        ("tokenize", [], "", "--tokenizer"),
        ("tokenize", ["--workdir={run}", "--decode"], "[1, 2]\n[3, 99999]\n", "Line 2"),
        ("tokenize", ["--workdir={run}", "--decode"], "one two\n", "Line 1"),
        ("prepare", ["--source=demo"], "", "--output"),
        ("prepare", ["--source=text:absent.txt", "--output=absent"], "", "absent.txt"),
    ],
)
def test_wrong_input_is_a_sentence(
    runner: Runner, undisturbed: Path, module: str, flags: list[str], text: str, names: str
) -> None:
    code, _, err = runner.call(module, *(flag.format(run=undisturbed) for flag in flags), text=text)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and names in err
