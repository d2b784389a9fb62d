"""What AutoTokenizer makes of an exported run: the same ids as here, or a refusal, never something that looks right."""

import io
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from interop_support import TOKENIZERS, bpe, make_run
from large_data import LARGE

import gpt1_jax
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from gpt1_jax.data.tokenizers.sentencepiece_model import parse
from gpt1_jax.interop.conversion import convert
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.usage.trained import TrainedRun

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is the reference; it is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
pytestmark = pytest.mark.usefixtures("quick_compilation")

OURS = Path(__file__).parents[1] / "data" / "published_pieces.json"
GOLDEN = LARGE / "openai_bpe" / "golden.jsonl"
PROSE = """It was the best of times, it was the worst of times; it was the age of wisdom.
The quick brown fox (whose name nobody knew) jumps over 13 lazy dogs.  "Well," said he, "that's that!"
	Tabs, and    several spaces, and a café in Köln."""
ODD = [
    *(
        "",
        " ",
        "a",
        " a",
        "   a",
        "a  ",
        "\t",
        "a\tb",
        "\n",
        "\n\n\n",
        "a\r\nb\r\n",
        "   \n   x",
        "\0",
        "a\0b",
    ),
    *(
        "▁",
        "a▁b",
        "▁▁ ▁",
        "😀 👩‍👩‍👧 👍🏽",
        "é e\u0301 ﬁ Å",
        "中文字符 日本語 한국어",
        "السلام",
        "\u2028\u2029\x85",
    ),
    *(
        "</s>",
        "a</s>b",
        "<unk>",
        "<s>",
        "<0x41>",
        "<|extract|>",
        "⁇",
        "\ufeffa",
        "\ufffd",
        "\U0010ffff\ue000",
    ),
    *("x" * 3000 + "\n" + " y" * 9000, "the" * 2000, " " * 999, "\n" * 999, "''''''", "... . . ."),
]


def made_texts(count: int) -> list[str]:
    """Odd texts, those of the golden file where it is there, made-up ones, and all in one."""
    generator = random.Random(0)
    alphabet = "abthe \n\t▁é中😀.,'<>s/0\r"
    made = ["".join(generator.choices(alphabet, k=generator.randint(1, 60))) for _ in range(count)]
    golden = [json.loads(line) for line in GOLDEN.read_text().splitlines()] if GOLDEN.exists() else []
    ours = json.loads(OURS.read_text())["golden"]
    texts = [*ODD, *made, PROSE, *(entry["text"] for entry in [*ours, *golden])]
    return [*texts, "\n".join(texts)]


def train(**settings: Any) -> SentencePieceTokenizer:
    """A user's model, trained by SentencePiece's own means."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROSE.split("\n") * 3),
        model_writer=model,
        minloglevel=2,
        hard_vocab_limit=False,
        **{
            "model_type": "bpe",
            "vocab_size": 400,
            "normalization_rule_name": "identity",
            "add_dummy_prefix": False,
            "remove_extra_whitespaces": False,
            "byte_fallback": True,
        }
        | settings,
    )
    return SentencePieceTokenizer(model.getvalue())


def export(tokenizer: Tokenizer, directory: Path, task: Task | None = None) -> Path:
    make_run(directory / "run", tokenizer, task)
    convert("gpt1_jax", "huggingface", str(directory / "run"), str(directory / "hub"))
    return directory / "hub"


def check_ids(tokenizer: SentencePieceTokenizer, hub: Path, exact: bool) -> None:
    """Compares both of theirs with ours, and with an `exact` one their texts with the text."""
    plain = tokenizers.Tokenizer.from_file(str(hub / "tokenizer.json"))
    auto = transformers.AutoTokenizer.from_pretrained(hub)
    for text in made_texts(300):
        ids = tokenizer.encode(text)
        assert plain.encode(text).ids == ids, text[:60]
        assert auto(text)["input_ids"] == ids, text[:60]
        if exact:
            assert plain.decode(ids) == auto.decode(ids) == text
    assert len(auto) == plain.get_vocab_size() == tokenizer.vocab_size


# ── The same ids ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_s_own_tokenizer_gives_its_ids_and_texts(tmp_path: Path) -> None:
    tokenizer = train_sentencepiece(iter([PROSE] * 3), 420)
    hub = export(tokenizer, tmp_path)
    check_ids(tokenizer, hub, exact=True)
    auto = transformers.AutoTokenizer.from_pretrained(hub)
    assert (auto.eos_token_id, auto.unk_token_id, auto.model_max_length) == (1, 0, 16)
    ids = tokenizer.encode("the dogs")
    assert auto.decode([*ids, 1, *ids]) == tokenizer.decode([*ids, 1, *ids]) == "the dogsthe dogs"
    assert set(auto("a")) == {"input_ids", "attention_mask"}  # GPT-1 would embed a token's type as a piece


@pytest.mark.parametrize(
    ("settings", "exact"),
    [
        ({"user_defined_symbols": ["\n"]}, True),
        ({"user_defined_symbols": ["\n", "▁▁▁▁", "<br>", "the", "th", "😀", "中文"]}, True),
        ({}, False),  # a "▁" comes back as a space
        ({"user_defined_symbols": ["a▁b", "<b>"], "control_symbols": ["<c>", "(c)"]}, False),
        ({"byte_fallback": False}, False),  # what has no piece is lost
        ({"bos_id": 1, "eos_id": 2, "unk_id": 0, "pad_id": 3, "unk_piece": "[?]"}, False),
        ({"split_by_whitespace": False, "split_by_unicode_script": False, "vocab_size": 600}, False),
    ],
)
def test_a_user_s_byte_pairs_give_theirs(settings: dict[str, Any], exact: bool, tmp_path: Path) -> None:
    tokenizer = train(**settings)
    check_ids(tokenizer, export(tokenizer, tmp_path), exact)


def test_a_classifier_s_sequences_are_made_by_autotokenizer(tmp_path: Path) -> None:
    """The logits equal those of the run, also for padded texts in one batch."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    texts = ["the fox", "it was the best of times", "<|extract|> dogs", ""]
    for kind in ("classification", "entailment"):
        task = Task("own", kind, ("accuracy",), labels=("a", "b"))
        tokenizer = train_sentencepiece(iter([PROSE] * 3), 420)
        hub = export(tokenizer, tmp_path / kind, task)
        auto = transformers.AutoTokenizer.from_pretrained(hub)
        model = transformers.OpenAIGPTForSequenceClassification.from_pretrained(hub).eval()
        examples = [Example((text,) if kind == "classification" else (text, "a b"), None) for text in texts]
        seconds = [] if kind == "classification" else [["a b"] * len(texts)]
        fed = auto(texts, *seconds, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            found = model(**fed).logits.numpy()
        run: TrainedRun = gpt1_jax.load(str(tmp_path / kind / "run"))
        np.testing.assert_allclose(found, run.predict_logits(examples), atol=1e-4)
        assert fed["input_ids"][0, 0] == 420 and len(auto) == 423


# ── Where it cannot be said ──────────────────────────────────────────────────────────────────────────────────


def with_scores(change: Any) -> SentencePieceTokenizer:
    """A model whose pieces are scored otherwise than by training."""
    parsed = parse(train().model)
    for number, piece in enumerate(parsed.pieces):
        if piece.type == 1:
            piece.score = change(number)
    return SentencePieceTokenizer(parsed.SerializeToString())


def with_unused() -> SentencePieceTokenizer:
    parsed = parse(train().model)
    parsed.pieces[-1].type = 5
    return SentencePieceTokenizer(parsed.SerializeToString())


def test_scores_in_another_order_than_the_ids_decide(tmp_path: Path) -> None:
    tokenizer = with_scores(lambda number: (number * 7919) % 1009)
    check_ids(tokenizer, export(tokenizer, tmp_path), exact=False)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: train(model_type="unigram"), "model_type is unigram, not bpe"),
        (lambda: train(model_type="char"), "model_type is char, not bpe"),
        (lambda: train(normalization_rule_name="nmt_nfkc"), "normalizes texts by the rule 'nmt_nfkc'"),
        (lambda: train(add_dummy_prefix=True), "puts a space in front"),
        (lambda: train(remove_extra_whitespaces=True), "changes spaces"),
        (lambda: with_scores(lambda number: -(number // 2)), "not ordered by their scores"),
        (with_unused, "pieces that must not be used"),
    ],
)
def test_another_sentencepiece_model_is_told_and_refused_by_autotokenizer(
    make: Any, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = make()
    hub = export(tokenizer, tmp_path)
    assert told in capsys.readouterr().out
    assert not (hub / "tokenizer.json").exists()
    assert (hub / "sentencepiece.model").read_bytes() == tokenizer.model
    with pytest.raises(ValueError, match="Couldn't instantiate"):
        transformers.AutoTokenizer.from_pretrained(hub)


def test_without_a_tokenizer_autotokenizer_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Couldn't instantiate"):
        transformers.AutoTokenizer.from_pretrained(export(TOKENIZERS["none"](), tmp_path))


def test_the_published_vocabulary_is_transformers_own_gpt1_tokenizer_and_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = export(bpe(), tmp_path)
    assert "leaves out line breaks" in capsys.readouterr().out
    auto = transformers.AutoTokenizer.from_pretrained(hub)
    assert type(auto).__name__ == "OpenAIGPTTokenizer"
    assert auto("The fox, THE q")["input_ids"] == bpe().encode("The fox, THE q")
    assert auto.convert_ids_to_tokens(range(len(auto))) == list(json.loads(bpe().encoder))


# ── Files that others can read ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("target", ["huggingface", "openai", "gpt1_jax"])
def test_modes_are_those_of_the_umask(target: str, tmp_path: Path) -> None:
    make_run(tmp_path / "run", TOKENIZERS["sentencepiece"]())
    for mask, expected in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            convert("gpt1_jax", target, str(tmp_path / "run"), str(tmp_path / f"{mask}"))
        finally:
            os.umask(before)
        files = [path for path in (tmp_path / f"{mask}").rglob("*") if path.is_file()]
        assert {path.stat().st_mode & 0o777 for path in files} == {expected} and len(files) > 3
