"""The inside of a model, as `run.states`, `attention`, `embed`, `next_tokens` and `fill` show it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interop_support import make_run, sentencepiece

import gpt1_jax
from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.interop.conversion import convert
from gpt1_jax.usage.trained import TrainedRun

pytestmark = pytest.mark.usefixtures("quick_compilation")

TEXT = "the lazy dog"
GPT2 = {"model.norm": "pre"}
BERT = {
    "model.causal": False,
    "model.token_types": 2,
    "model.embedding_norm": True,
    "model.norm_epsilon": 1e-12,
    "model.activation": "gelu",
}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "lazy", "dog", "fox", "##es", "quick"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module")
def gpt(place: Path) -> TrainedRun:
    make_run(place / "gpt" / "run", sentencepiece())
    return gpt1_jax.load(place / "gpt" / "run")


@pytest.fixture(scope="module")
def bert(place: Path) -> TrainedRun:
    tokenizer = HuggingFaceTokenizer({"vocab.txt": "\n".join(PIECES).encode()})
    make_run(place / "bert" / "run", tokenizer, **BERT)
    return gpt1_jax.load(place / "bert" / "run")


def softmax(logits: np.ndarray) -> np.ndarray:
    chances = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return chances / chances.sum(-1, keepdims=True)


# ── States and attention ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "settings"),
    [("OpenAIGPTModel", {}), ("GPT2Model", GPT2), ("BertModel", BERT)],
    ids=["gpt", "gpt2", "bert"],
)
def test_states_and_attention_are_those_of_transformers(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
    make_run(tmp_path / "run", NoTokenizer(61), **settings)
    run = gpt1_jax.load(tmp_path / "run")
    convert("gpt1_jax", "huggingface", str(run.run.directory), str(tmp_path / "hub"))
    model: Any = getattr(transformers, name).from_pretrained(tmp_path / "hub", attn_implementation="eager")
    ids = [3, 60, 0, 17, 17, 5, 42]
    with torch.no_grad():
        out = model.eval()(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 3
    for layer, expected in enumerate(out.hidden_states):
        np.testing.assert_allclose(run.states(ids, layer), expected[0].numpy(), atol=1e-4)
    np.testing.assert_array_equal(run.states(ids), run.states(ids, 2))
    expected = np.stack([weights[0].numpy() for weights in out.attentions])
    np.testing.assert_allclose(run.attention(ids), expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"model.attention": "chunked"}, GPT2, BERT], ids=["chunked", "gpt2", "bert"]
)
def test_the_last_states_are_those_that_predictions_are_made_from(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """In every family and form of attention, although weights are seen in one form only."""
    directory = tmp_path / "run"
    make_run(directory, sentencepiece(), **settings)
    run = gpt1_jax.load(directory)
    ids = run.encode(TEXT)
    with run.on_mesh():
        expected: Any = run.trunk.apply(
            {"params": run.trunk_params}, np.array([ids] * run.mesh.shape["data"])
        )
    np.testing.assert_allclose(run.states(ids), expected[0], atol=1e-5)
    weights = run.attention(ids)
    assert weights.shape == (2, 4, len(ids), len(ids))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert (np.triu(weights, 1) == 0).all() == run.config.model.causal


def test_a_bert_reads_a_text_between_its_special_pieces(bert: TrainedRun) -> None:
    ids = [2, *bert.encode(TEXT), 3]
    assert bert.encode(TEXT) == [5, 6, 7]
    np.testing.assert_array_equal(bert.states(TEXT), bert.states(ids))
    assert bert.attention(TEXT).shape[-2:] == (5, 5)


# ── Embeddings ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_an_embedding_is_the_mean_of_last_states_of_length_one(
    gpt: TrainedRun, bert: TrainedRun, name: str
) -> None:
    run = {"gpt": gpt, "bert": bert}[name]
    texts = [TEXT, "dog", "the fox", "", "dog lazy"] * 3
    together = run.embed(texts)
    for text, found in list(zip(texts, together, strict=True))[:5]:
        np.testing.assert_allclose(found, run.embed(text), atol=1e-5)
        if text or name == "bert":
            mean = run.states(text).astype(np.float64).mean(0)
            np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-5)
        else:
            assert not found.any()
    assert run.embed([]).shape == (0, 32)


def test_a_text_that_is_too_long_is_cut_with_a_word(
    bert: TrainedRun, caplog: pytest.LogCaptureFixture
) -> None:
    found = bert.embed(["dog " * 40, "dog"])
    np.testing.assert_allclose(found[0], bert.embed("dog " * 14), atol=1e-5)
    assert "1 text of 2 cut to the model's context of 16" in caplog.text


# ── What may stand somewhere ─────────────────────────────────────────────────────────────────────────────────


def test_next_tokens_are_the_most_probable_ones(gpt: TrainedRun) -> None:
    chances = softmax(gpt.logits(gpt.encode(TEXT))[-1])
    found = gpt.next_tokens(TEXT, 4)
    assert [guess["token_id"] for guess in found] == np.argsort(-chances)[:4].tolist()
    assert [guess["text"] for guess in found] == [gpt.decode([guess["token_id"]]) for guess in found]
    np.testing.assert_allclose([guess["probability"] for guess in found], -np.sort(-chances)[:4], rtol=1e-4)
    assert sum(guess["probability"] for guess in gpt.next_tokens(TEXT, 300)) == pytest.approx(1)


def test_blanks_are_filled_with_the_most_probable_pieces(bert: TrainedRun) -> None:
    ids = [2, 5, 4, 7, 4, 3]
    first, second = bert.fill("the [MASK] dog [MASK]", 3)
    for guesses, logits in ((first, bert.logits(ids)[2]), (second, bert.logits(ids)[4])):
        chances = softmax(logits)
        assert [guess["token_id"] for guess in guesses] == np.argsort(-chances)[:3].tolist()
        np.testing.assert_allclose([g["probability"] for g in guesses], -np.sort(-chances)[:3], rtol=1e-4)
    assert bert.fill(ids, 3) == [first, second]


# ── What is a sentence ───────────────────────────────────────────────────────────────────────────────────────


def test_slips_are_told(gpt: TrainedRun, bert: TrainedRun) -> None:
    long = "fox " * 40
    for call, told in (
        (lambda: gpt.states(TEXT, 3), "layer=3 is out of range; give 0, the embeddings, to 2"),
        (lambda: gpt.states(TEXT, -4), "layer=-4"),
        (lambda: gpt.states(long), "expected 1 to 16, the model's context"),
        (lambda: gpt.attention(""), "has 0 tokens"),
        (lambda: gpt.attention([1, 300]), "holds 300"),
        (lambda: gpt.next_tokens(TEXT, 0), "n=0 is out of range; give 1 to 300"),
        (lambda: gpt.fill("the [MASK]"), "no model that fills blanks"),
        (lambda: bert.fill("the dog"), r"has no \[MASK\]; write it"),
        (lambda: bert.next_tokens(TEXT), "fills masks"),
        (lambda: bert.score(TEXT), "fills masks"),
        (lambda: gpt.embed(["a", 5]), "text 2=5 is not a text"),  # pyright: ignore
        (lambda: gpt.embed(None), "texts=None"),  # pyright: ignore
    ):
        with pytest.raises(UserError, match=told):
            call()
