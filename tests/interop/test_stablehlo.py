"""A run as StableHLO: a fresh process without this package loads it as its README says, and gets our numbers."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interop_support import MODELS, make_run, refused, sentencepiece

import gpt1_jax
from gpt1_jax.data.tokenizers.huggingface import BERT_PIECES, UNKNOWN, HuggingFaceTokenizer
from gpt1_jax.devices.mesh import platform
from gpt1_jax.errors import UserError
from gpt1_jax.interop.conversion import convert
from gpt1_jax.model.attention import plain_attention
from gpt1_jax.model.kernels import choice
from gpt1_jax.model.specials import SPECIALS
from gpt1_jax.tasks.batches import assemble
from gpt1_jax.tasks.encoding import encode_examples
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.training.predicting import make_predict
from gpt1_jax.usage.trained import TrainedRun

pytest.importorskip(
    "flatbuffers", reason="jax writes exported programs with flatbuffers; it is not installed"
)
pytestmark = pytest.mark.usefixtures("quick_compilation")

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "##s", "##ing"]
PAIRS = [("the foxs", "a dog"), ("the quick brown fox", "a lazy doging dog"), ("the", "a")]
SIMILARITY = Task("stsb", "similarity", ("pearson",), score_range=(1, 4))
CHOICE = Task("race", "choice", ("accuracy",), choices=2)
TAGGING = Task("names", "tagging", ("f1",), labels=("B-PER", "I-PER", "O"))
SPAN = Task("squad", "span", ("exact_match",))
TITLES = Task("titles", "completion", ("exact_match",))
# The family and the task of each run.
FAST = {"score": ("gpt1", None), "tagging": ("bert", TAGGING)}
MORE = {
    "similarity": ("gpt1", SIMILARITY),
    "fill": ("bert", None),
    "choice": ("gpt2", CHOICE),
    "span": ("gpt2", SPAN),
    "bert_span": ("bert", SPAN),
    "completion": ("gpt1", TITLES),
}
# What the README has, and then the same with other inputs, of two shapes.
LOADER = """
import os, re, sys
# Whoever imports it fails.
sys.modules["gpt1_jax"] = None
for directory in sys.argv[1:]:
    os.chdir(directory)
    exec(re.search("```python\\n(.*?)```", open("README.md").read(), re.DOTALL)[1])
    for name in ("first", "second"):
        given = np.load(f"{name}.npz")
        inputs = [given[entry["name"]] for entry in about["inputs"]]
        np.save(f"{name}.npy", np.asarray(program.call(weights, *inputs)))
"""


def export(place: Path, name: str, family: str, task: Task | None) -> TrainedRun:
    pieces = [*BERT_PIECES[:3], UNKNOWN, BERT_PIECES[3], *WORDS]
    bert = HuggingFaceTokenizer({"vocab.txt": "".join(f"{piece}\n" for piece in pieces).encode()})
    settings: dict[str, Any] = MODELS.get(family, {}) | {"model.context_length": 24}
    make_run(place / "runs" / name, bert if family == "bert" else sentencepiece(), task, **settings)
    convert("gpt1_jax", "stablehlo", str(place / "runs" / name), str(place / name))
    return gpt1_jax.load(place / "runs" / name)


def logits_of(run: TrainedRun, row: np.ndarray) -> np.ndarray:
    """The logits of pieces at each token and, of a model that completes prompts, of the three marks too."""
    if run.task is None:
        return run.logits(row.tolist())
    with run.on_mesh():
        states: Any = run.trunk.apply({"params": run.trunk_params}, np.tile(row, (run.mesh.size, 1)))
    table = np.asarray(run.trunk_params["tokens"])[: run.tokenizer.vocab_size + SPECIALS]
    return np.asarray(states[0]) @ table.T


def texts_of(run: TrainedRun) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
    """Inputs of two shapes for a language model, and the log-probabilities that we find."""
    given, expected = [], []
    for ids in ([1, 7, 5, 9, 11, 6, 7], [5, 8, 9]):
        tokens = np.array([ids, ids[::-1]], np.int32)
        logits = np.stack([logits_of(run, row) for row in tokens]).astype(np.float64)
        found = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        if run.config.model.causal:
            found = np.take_along_axis(found[:, :-1], tokens[:, 1:, None], -1)[..., 0]
        given.append({"tokens": tokens, "types": 0 * tokens, "groups": 0 * tokens})
        expected.append(found)
    return given, expected


def examples_of(run: TrainedRun, task: Task) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
    """Inputs of two shapes for a classifier, and the logits that we find."""
    given, expected = [], []
    for pairs in (PAIRS, PAIRS[1:2]):
        texts = [(*pair, "the fox", "over") for pair in pairs] if task.kind == "choice" else pairs
        words = [tuple(" ".join(pair).split()) for pair in pairs]
        examples = [Example(text, None) for text in (words if task.kind == "tagging" else texts)]
        encoded = encode_examples(task, examples, run.tokenizer, 24, "classes", run.config.model.causal)
        rows, width = np.arange(len(encoded)), int(encoded.lengths().max())
        batch = assemble(encoded, rows, len(encoded), width, rows)
        inputs = {"tokens": batch.tokens, "types": batch.types, "groups": batch.groups}
        given.append({name: array for name, array in inputs.items() if array is not None})
        assert run.classifier is not None
        with run.on_mesh():
            found = make_predict(run.classifier, run.mesh)(run.params, encoded, 8)
        expected.append([np.asarray(logits) for logits in found])  # pyright: ignore[reportArgumentType]
    return given, expected


def check(place: Path, runs: dict[str, tuple[str, Task | None]]) -> None:
    expected = {}
    for name, (family, task) in runs.items():
        run = export(place, name, family, task)
        whole = task is None or task.kind == "completion"
        given, expected[name] = texts_of(run) if task is None or whole else examples_of(run, task)
        for which, inputs in zip(("first", "second"), given, strict=True):
            np.savez(place / name / f"{which}.npz", **inputs)
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADER, *(str(place / name) for name in runs)],
        env={"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}, cwd="/", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, both in expected.items():
        for which, ours in zip(("first", "second"), both, strict=True):
            for theirs, row in zip(np.load(place / name / f"{which}.npy"), ours, strict=True):
                # Positions behind the end of a row are no one's.
                cut = theirs[tuple(map(slice, row.shape))]
                np.testing.assert_allclose(cut, row, atol=1e-5, rtol=1e-5, err_msg=name)


def test_a_fresh_process_without_this_package_gets_our_numbers(tmp_path: Path) -> None:
    check(tmp_path, FAST)
    about = json.loads((tmp_path / "tagging" / "program.json").read_text())
    assert about["labels"] == ["B-PER", "I-PER", "O"] and about["layout"] == "[CLS] words [SEP]"
    assert (tmp_path / "score" / "sentencepiece.model").read_bytes() == sentencepiece().model
    assert (tmp_path / "tagging" / "vocab.txt").exists()


def test_no_compiler_is_told_what_only_another_understands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's layouts, for one, could not be written; so the program is traced for a device of no kind."""
    platforms = []

    def spied(*inputs: Any, **others: Any) -> Any:
        platforms.append(platform())
        return plain_attention(*inputs, **others)

    monkeypatch.setitem(choice.FORMS, "plain", spied)
    export(tmp_path, "score", "gpt1", None)
    assert set(platforms) == {"any"}


@pytest.mark.slow
def test_every_other_kind_of_run_gives_our_numbers_there(tmp_path: Path) -> None:
    check(tmp_path, MORE)
    about = json.loads((tmp_path / "similarity" / "program.json").read_text())
    assert about["scores"] == [1, 2, 3, 4] and about["ids"] == {"<s>": 300, "$": 301, "<e>": 302}
    assert about["inputs"][0]["shape"] == "B 2 T" and about["output"]["shape"] == "B 1 4"


def test_what_is_no_run_or_has_no_form_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstm = {"model.kind": "lstm", "model.num_layers": 1}
    make_run(tmp_path / "lstm" / "run", sentencepiece(), **lstm)
    run = tmp_path / "lstm" / "run"
    told = refused("gpt1_jax", run, tmp_path / "out", "stablehlo")
    assert "model.kind=lstm cannot be exported" in told
    for source, more in (("huggingface", {}), ("gpt1_jax", {"tokenizer": "openai:x"})):
        told = refused(source, run, tmp_path / "out", "stablehlo", **more)
        assert "--to=stablehlo exports a run" in told
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("pip install gpt1_jax[stablehlo]")):
        make_run(tmp_path / "gpt" / "run", sentencepiece())
        convert("gpt1_jax", "stablehlo", str(tmp_path / "gpt" / "run"), str(tmp_path / "out"))
