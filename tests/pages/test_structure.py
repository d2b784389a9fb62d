"""The picture of a model's structure follows from its config."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from gpt1_jax.config import Config, ModelConfig
from gpt1_jax.pages.structure import draw_structure

GPT1 = Config().model
GPT2 = replace(GPT1, norm="pre", context_length=1024)
BERT = replace(GPT1, causal=False, token_types=2, embedding_norm=True, activation="gelu")
LSTM = replace(GPT1, kind="lstm", num_layers=1, d_ff=2048)
_SVG = "{http://www.w3.org/2000/svg}"


def words(model: ModelConfig) -> list[str]:
    """Returns the texts of the picture from below to above."""
    texts = ElementTree.fromstring(draw_structure(model, 40478)).iter(f"{_SVG}text")
    placed = sorted((-float(text.attrib["y"]), text.text or "") for text in texts)
    return [text for _, text in placed if text != "+" and not text.startswith("×")]


def test_gpt1_is_the_papers_figure() -> None:
    assert words(GPT1) == [
        "tokens", "40,478 pieces + 512 positions", "Embeddings, 768 wide",
        "12 heads of 64", "Masked self-attention", "Layer norm",
        "768 → 3,072 → 768, gelu_tanh", "Feed forward", "Layer norm",
        "768 → 40,478, tied to the embeddings", "Softmax over the token table", "probabilities of the next token",
    ]  # fmt: skip


def test_a_pre_norm_model_normalizes_before_and_once_at_the_end() -> None:
    names = [word for word in words(GPT2) if word in ("Layer norm", "Masked self-attention", "Feed forward")]
    assert names == ["Layer norm", "Masked self-attention", "Layer norm", "Feed forward", "Layer norm"]


def test_an_encoder_sees_all_and_has_types_and_a_transform() -> None:
    found = words(BERT)
    assert "Self-attention" in found and "Masked self-attention" not in found
    assert "40,478 pieces + 512 positions + 2 types" in found
    assert found.index("Embeddings, 768 wide") + 1 == found.index("Layer norm")
    assert "Transform" in found and found[-1] == "probabilities of the masked tokens"


def test_an_lstm_has_neither_attention_nor_positions() -> None:
    assert words(LSTM)[1:5] == ["40,478 pieces", "Embeddings, 768 wide", "2,048 units", "LSTM"]


@pytest.mark.parametrize("model", [GPT1, GPT2, BERT, LSTM], ids=["gpt1", "gpt2", "bert", "lstm"])
def test_the_layers_are_counted_and_all_lies_within_the_picture(model: ModelConfig) -> None:
    root = ElementTree.fromstring(draw_structure(model, 40478))
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    assert any(text.text == f"× {model.num_layers}" for text in root.iter(f"{_SVG}text"))
    for box in root.iter(f"{_SVG}rect"):
        x, y, w, h = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        assert left <= x and x + w <= left + width and top <= y and y + h <= top + height
    for text in root.iter(f"{_SVG}text"):
        assert top < float(text.attrib["y"]) <= top + height
