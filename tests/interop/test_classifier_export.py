"""A fine-tuned run in transformers: the same logits from OpenAIGPTForSequenceClassification, which knows no bias, and
from OpenAIGPTDoubleHeadsModel, which scores each choice."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from interop_support import make_run, params_of, refused, sentencepiece
from safetensors.numpy import load_file

import gpt1_jax
from gpt1_jax.interop.conversion import convert
from gpt1_jax.interop.fold import fold_bias
from gpt1_jax.model.specials import special_ids
from gpt1_jax.tasks.task import Example, Task, transform
from gpt1_jax.training.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("quick_compilation")

TASKS = {
    "classification": Task("cola", "classification", ("accuracy",), labels=("bad", "good")),
    "entailment": Task("mnli", "entailment", ("accuracy",), labels=("yes", "perhaps", "no")),
    "similarity": Task("qqp", "similarity", ("accuracy",), labels=("other", "same")),
    "choice": Task("race", "choice", ("accuracy",), choices=4),
}
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
V, C = 300, 24


def make_examples(kind: str, count: int) -> list[Example]:
    """Texts of unequal length, some cut at the context."""
    texts = [" ".join(WORDS[i % 5 : i % 5 + i]) for i in range(count)]
    return [
        Example((text,) if kind == "classification" else (text, texts[i % 3]), None)
        for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize("kind", ["classification", "entailment"])
@pytest.mark.parametrize("d_ff", [128, 64])
def test_transformers_classifier_gives_our_logits(
    kind: Any, d_ff: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
    make_run(
        tmp_path / "run", sentencepiece(), TASKS[kind], **{"model.d_ff": d_ff, "model.context_length": C}
    )
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "hub"))
    model, told = transformers.OpenAIGPTForSequenceClassification.from_pretrained(
        tmp_path / "hub", output_loading_info=True
    )
    assert not any(told.values()), told
    run, specials = gpt1_jax.load(str(tmp_path / "run")), special_ids(V)
    assert (
        f"<s> = {specials.start}, $ = {specials.delimiter}, <e> = {specials.extract}"
        in capsys.readouterr().out
    )

    examples = make_examples(kind, 9)
    expected = run.predict_logits(examples)
    sequences = [
        transform(kind, [run.encode(text) for text in example.texts], specials, C)[0] for example in examples
    ]
    lengths = {len(ids) for ids in sequences}
    assert len(lengths) > 3 and C in lengths
    padded = np.full((len(sequences), max(map(len, sequences))), model.config.pad_token_id)
    for row, ids in zip(padded, sequences, strict=True):
        row[: len(ids)] = ids
    with torch.no_grad():
        together = model.eval()(torch.from_numpy(padded)).logits.numpy()
        alone = np.concatenate([model(torch.tensor([ids])).logits.numpy() for ids in sequences])
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(together, expected, atol=1e-4)
    np.testing.assert_allclose(alone, expected, atol=1e-4)

    config = model.config
    assert config.architectures == ["OpenAIGPTForSequenceClassification"]
    assert config.num_labels == len(TASKS[kind].labels) and config.vocab_size == V + 3
    assert tuple(config.id2label[i] for i in range(config.num_labels)) == TASKS[kind].labels
    assert config.label2id == {label: i for i, label in enumerate(TASKS[kind].labels)}


def test_transformers_model_of_two_heads_scores_our_choices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its output is the language model's, specials and all, and its second head gives each choice our very logit."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
    make_run(
        tmp_path / "run",
        sentencepiece(),
        TASKS["choice"],
        **{"model.context_length": C, "finetune.classifier_dropout": 0.25},
    )
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "hub"))
    model, told = transformers.OpenAIGPTDoubleHeadsModel.from_pretrained(
        tmp_path / "hub", output_loading_info=True
    )
    assert not any(told.values()), told
    run, specials = gpt1_jax.load(str(tmp_path / "run")), special_ids(V)
    said = capsys.readouterr().out
    assert f"<s> = {specials.start}, $ = {specials.delimiter}, <e> = {specials.extract}" in said
    assert "mc_token_ids" in said and "left out" not in said

    examples = [
        Example(
            (" ".join(WORDS * i), "the fox", *(" ".join(WORDS[j : j + 1 + j % 3]) for j in range(4))), None
        )
        for i in range(3)
    ]
    sequences = [
        transform("choice", [run.encode(text) for text in example.texts], specials, C) for example in examples
    ]
    ends = np.array([[len(ids) - 1 for ids in choices] for choices in sequences])
    assert len(set(ends.ravel())) > 3 and ends.max() == C - 1
    padded = np.full((*ends.shape, C), model.config.pad_token_id)
    for place, ids in zip(
        np.ndindex(ends.shape), (ids for choices in sequences for ids in choices), strict=True
    ):
        padded[place][: len(ids)] = ids
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(padded), mc_token_ids=torch.from_numpy(ends))
    expected = run.predict_logits(examples)
    assert expected.shape == (3, 4) and np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found.mc_logits.numpy(), expected, atol=1e-4)
    ids = run.encode("the quick brown fox")
    with torch.no_grad():
        predicted = model(torch.tensor([[ids]])).logits[0, 0, :, :V].numpy()
    np.testing.assert_allclose(predicted, run.logits(ids), atol=1e-4)
    assert model.config.architectures == ["OpenAIGPTDoubleHeadsModel"] and model.config.vocab_size == V + 3
    assert model.config.summary_first_dropout == 0.25


def test_why_similarity_has_no_counterpart_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run", sentencepiece(), TASKS["similarity"])
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "out"))
    assert (
        "left out: transformers has no counterpart to a head of similarity, which reads the sum of two states"
        in (capsys.readouterr().out)
    )


@pytest.mark.parametrize("target", ["openai", "huggingface", "gpt1_jax"])
@pytest.mark.parametrize("kind", TASKS)
def test_it_comes_back_bit_by_bit(
    kind: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Head and task included; what the other format cannot express is left out, and a line says so."""
    make_run(tmp_path / "run", sentencepiece(), TASKS[kind])
    convert("gpt1_jax", target, str(tmp_path / "run"), str(tmp_path / "out"))
    said = capsys.readouterr().out
    layer = "multiple_choice_head.summary.weight" if kind == "choice" else "score.weight"
    held = target == "gpt1_jax" or (target == "huggingface" and kind != "similarity")
    assert (f"The head of task {TASKS[kind].name} is left out: " in said) == (not held)
    if target == "huggingface":
        names = load_file(tmp_path / "out" / "model.safetensors")
        assert (layer in names) == held
        rows = json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"]
        assert rows == (V + 3 if held else V)
    heads = 4 if target == "openai" else None
    convert(target, "gpt1_jax", str(tmp_path / "out"), str(tmp_path / "back"), num_heads=heads)
    assert "left out" not in capsys.readouterr().out
    expected, found = params_of(tmp_path / "run"), params_of(tmp_path / "back")
    if not held:
        expected = expected["trunk"]
        expected["tokens"] = expected["tokens"] * (np.arange(len(expected["tokens"])) < V)[:, None]
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    back = gpt1_jax.load(str(tmp_path / "back"))
    assert back.tokenizer.fingerprint() == sentencepiece().fingerprint()
    assert back.task == (TASKS[kind] if held else None)


# ── The bias in the kernel ───────────────────────────────────────────────────────────────────────────────────


def normalized(generator: np.random.Generator, count: int, width: int) -> np.ndarray:
    """What a layer norm makes before its gains and biases, float64 [count, width]."""
    n = generator.normal(size=(count, width))
    n -= n.mean(-1, keepdims=True)
    return n / np.sqrt((n**2).mean(-1, keepdims=True) + 1e-5)


def error_of(
    kernel: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> tuple[float, bool]:
    """How far float32 with the folded bias is from float64 with the bias itself; whether the norm stays as it is.

    Relative to the largest term of an output, where that is above 1.
    """
    n = normalized(np.random.default_rng(0), 50, len(scale))
    folded, new_scale, new_shift = fold_bias(kernel, bias, scale, shift)
    assert folded.dtype == new_scale.dtype == new_shift.dtype == np.float32
    found = (n.astype(np.float32) * new_scale + new_shift) @ folded
    expected = (n * scale + shift) @ kernel.astype(np.float64) + bias
    size = max(
        1, np.abs(expected).max(), (np.abs(n * scale + shift) @ np.abs(kernel)).max() / np.sqrt(len(scale))
    )
    return float(np.abs(found - expected).max() / size), new_scale is scale and new_shift is shift


@pytest.mark.parametrize("width", [8, 64, 768])
@pytest.mark.parametrize("seed", range(3))
def test_a_trained_norm_stays_and_carries_the_bias(width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    kernel = generator.normal(0, 0.02, (width, 3)).astype(np.float32)
    bias = np.array([0.03, -1e-3, 0.0], np.float32)
    scale = (generator.normal(1, 0.1, width) * generator.choice([1, 0.5, -1], width)).astype(np.float32)
    shift = np.copysign(generator.normal(0.05, 0.1, width), scale).astype(np.float32)
    error, kept = error_of(kernel, bias, scale, shift)
    assert kept and error < 2e-6
    folded, _, _ = fold_bias(kernel, bias, scale, shift)
    assert (folded[:, 2] == kernel[:, 2]).all()


def test_without_a_bias_the_kernel_stays_as_it_is() -> None:
    kernel, norm = np.ones((8, 2), np.float32), np.zeros(8, np.float32)
    assert fold_bias(kernel, np.zeros(2, np.float32), norm, norm)[0] is kernel


@pytest.mark.parametrize(
    ("scale", "shift"),
    [
        (np.ones(8), np.zeros(8)),
        (np.ones(8), np.array([1, -1, 2, -2, 3, -3, 4, -4 + 1e-4])),
        (np.array([1.0] * 7 + [0.0]), np.ones(8)),
        (np.zeros(8), np.zeros(8)),
        (np.array([1.0] * 7 + [1e-42]), np.array([1.0] * 7 + [0.0])),
    ],
)
def test_a_norm_that_cannot_carry_the_bias_is_replaced(scale: np.ndarray, shift: np.ndarray) -> None:
    kernel, bias = np.ones((8, 2), np.float32), np.array([0.0, 0.1], np.float32)
    error, kept = error_of(kernel, bias, scale.astype(np.float32), shift.astype(np.float32))
    assert not kept and error < 1e-5


@given(data=st.data())
@settings(derandomize=True, max_examples=150, deadline=None)
def test_any_bias_is_carried_by_any_norm(data: st.DataObject) -> None:
    """Random norms and degenerate ones: scales of 0, tiny and huge, shifts that add up to nothing."""
    width, outputs = data.draw(st.integers(2, 64)), data.draw(st.integers(1, 4))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))

    def draw(*shape: int) -> np.ndarray:
        array = generator.normal(size=shape) * 10.0 ** data.draw(st.integers(-6, 2))
        odd = data.draw(st.sampled_from([1.0, 0.0, 1e-42, 1e-8, 1e3, -1.0]))
        array[generator.random(shape) < data.draw(st.sampled_from([0.0, 0.1, 1.0]))] = odd
        return array.astype(np.float32)

    scale, shift = draw(width), draw(width)
    if data.draw(st.booleans()):
        ratio = shift / np.where(np.abs(scale) < 1e-30, 1, scale)
        shift = (shift - scale * ratio.mean()).astype(np.float32)
    assert error_of(draw(width, outputs), draw(outputs), scale, shift)[0] < 1e-5


@pytest.mark.parametrize("kind", ["classification", "entailment"])
def test_a_norm_that_was_never_trained_carries_the_bias_too(
    kind: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the run comes back with its own norm and head."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
    make_run(tmp_path / "run", sentencepiece(), TASKS[kind], **{"model.context_length": C})
    params = params_of(tmp_path / "run")
    params["trunk"]["blocks"]["norm_2_bias"] = np.zeros_like(params["trunk"]["blocks"]["norm_2_bias"])
    save_again(tmp_path / "run", params)
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "hub"))
    assert "use model.safetensors only as a classifier" in capsys.readouterr().out
    model, told = transformers.OpenAIGPTForSequenceClassification.from_pretrained(
        tmp_path / "hub", output_loading_info=True
    )
    assert not any(told.values()), told
    run, examples = gpt1_jax.load(str(tmp_path / "run")), make_examples(kind, 5)
    ids = [
        transform(kind, [run.encode(text) for text in one.texts], special_ids(V), C)[0] for one in examples
    ]
    with torch.no_grad():
        found = np.concatenate([model.eval()(torch.tensor([one])).logits.numpy() for one in ids])
    np.testing.assert_allclose(found, run.predict_logits(examples), atol=1e-5)
    convert("huggingface", "gpt1_jax", str(tmp_path / "hub"), str(tmp_path / "back"))
    back = params_of(tmp_path / "back")
    jax.tree.map(np.testing.assert_array_equal, back, params)


def save_again(directory: Path, params: Any) -> None:
    """A newer checkpoint of a run, with these parameters."""
    checkpoints = Checkpoints(epath.Path(directory / "checkpoints"), keep=2)
    checkpoints.save(8, jax.tree.map(jax.numpy.asarray, {"step": np.int32(8), "params": params}))
    checkpoints.close()


@pytest.mark.parametrize(
    ("part", "name", "number", "told"),
    [
        ("blocks", "norm_2_bias", np.nan, "h.0.ln_2.bias holds numbers that are not finite"),
        ("head", "kernel", np.nan, "the head's kernel holds numbers that are not finite"),
        ("head", "bias", np.inf, "the head's bias holds numbers that are not finite"),
    ],
)
def test_a_run_whose_head_cannot_be_carried_is_refused_whole(
    part: str, name: str, number: float, told: str, tmp_path: Path
) -> None:
    directory = tmp_path / "in" / "run"
    directory.parent.mkdir()
    make_run(directory, sentencepiece(), TASKS["classification"])
    params = params_of(directory)
    section = params["head"] if part == "head" else params["trunk"]["blocks"]
    section[name] = np.full_like(section[name], number)
    save_again(directory, params)
    assert told in refused("gpt1_jax", directory, tmp_path / "out", to="huggingface")
