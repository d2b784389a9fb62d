"""Tokenizers: the text comes back whole, training repeats itself, and wrong input gets a plain sentence."""

import io
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from gpt1_jax.data.tokenizers import sentencepiece as ours
from gpt1_jax.data.tokenizers import training_lines, word_memory
from gpt1_jax.data.tokenizers.opening import load_tokenizer, open_tokenizer
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from gpt1_jax.errors import UserError

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "others", "follow", "it"]


def write_texts(count: int = 200, seed: int = 0) -> Iterator[str]:
    """Documents of lines of words, with what may trip a tokenizer strewn in."""
    generator = random.Random(seed)
    oddities = ["</s>", "<unk>", "<0x0A>", "\t", "▁", "naïve", "\r"]
    for _ in range(count):
        words = generator.choices(WORDS, k=60) + generator.choices(oddities, k=3)
        generator.shuffle(words)
        yield "\n".join(" ".join(words[i : i + 12]) for i in range(0, len(words), 12))


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return train_sentencepiece(write_texts(), 380)


def train_plain(**options: object) -> bytes:
    """A model as a user may bring it, trained with SentencePiece's own defaults but for `options`."""
    model = io.BytesIO()
    lines = (line for text in write_texts() for line in text.split("\n"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, model_type="bpe", vocab_size=70, minloglevel=2, **options
    )
    return model.getvalue()


# ── The text comes back ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "   leading, trailing and  double spaces   ",
        "\n",
        "\n\n a\n\n\nb \n",
        "line\r\nline\rline\x0b\x0c\x85\u2028\u2029",
        "\ttabs\t\tand\x00NUL\x1f",
        "</s><s><unk><pad> <0x0A><0x00>",
        "▁", "▁▁ ▁ a▁b ▁\n▁", "▅ ⁇ \ufffd \ufeff",
        "emoji 😀👩‍👩‍👧 🇫🇷, 漢字 عربى e\u0301 é ﬁ Å \U0010ffff",
    ],
)  # fmt: skip
def test_every_text_comes_back(tokenizer: SentencePieceTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_random_unicode_comes_back(tokenizer: SentencePieceTokenizer) -> None:
    generator = random.Random(1)
    special = [*" \n\t\r\0▁▅⁇", "</s>", "<unk>", "<0x0A>", "the", "fox", "\r\n", "  "]
    scripts = [
        (0, 0x7F),
        (0x80, 0x24F),
        (0x2500, 0x25FF),
        (0x4E00, 0x9FFF),
        (0xE000, 0xFFFF),
        (0x1F300, 0x1FAFF),
    ]

    def draw() -> str:
        if generator.random() < 0.5:
            return generator.choice(special)
        return chr(generator.randint(*generator.choice([*scripts, (0x10000, 0x10FFFF)])))

    texts = ["".join(draw() for _ in range(generator.randint(0, 40))) for _ in range(5000)]
    ids = tokenizer.encode_batch(texts, threads=2)
    assert [tokenizer.decode(i.tolist()) for i in ids] == texts
    assert all((i >= 2).all() for i in ids)  # neither <unk> nor the end piece comes out of a text


def test_the_end_piece_is_no_text_and_no_text_is_the_end_piece(tokenizer: SentencePieceTokenizer) -> None:
    assert tokenizer.end_id == 1
    assert 1 not in tokenizer.encode("the end</s> </s>")
    assert tokenizer.decode([*tokenizer.encode("a fox"), 1]) == "a fox"
    assert tokenizer.vocab_size == 380
    assert tokenizer.encode("\n\n") == [2, 2]


def test_cutting_long_texts_changes_no_id(
    tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["\n".join(write_texts(30)), "no line break " * 100, "\n" * 50, "", " \n  \n" * 40 + "the"]
    whole = [tokenizer.encode(text) for text in texts]
    for size in (1, 7, 100):
        monkeypatch.setattr(ours, "_CHUNK_CHARACTERS", size)
        for ids, expected in zip(tokenizer.encode_batch(texts, threads=2), whole, strict=True):
            assert ids.dtype == np.int32
            assert ids.tolist() == expected


def test_words_that_are_remembered_have_the_ids_of_whole_texts(
    tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands beside a space; a memory that is full begins anew, and many threads need none."""
    monkeypatch.setattr(word_memory, "_MOST_CHARACTERS", 500)
    draw = random.Random(0)
    signs = [
        *" " * 12,
        *"the ab1'.\t\n\r\0",
        *"\u0301\u00a0\u3000\u2028\x1c\x85Éß你🙂",
        "</s>",
        "<0x0A>",
        "fox",
    ]
    texts = ["".join(draw.choices(signs, k=draw.randrange(40))) for _ in range(1000)]
    expected = tokenizer._processor.encode(texts)
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts, threads=2)] == expected
    monkeypatch.setattr(ours, "WORTH_REMEMBERING", 0)
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts, threads=2)] == expected


def test_words_are_not_told_apart_where_a_piece_goes_on_behind_a_space() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["of the of the of the fox"] * 9), model_writer=model, model_type="bpe",
        vocab_size=290, normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
        split_by_whitespace=False, byte_fallback=True, user_defined_symbols=["\n"], minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    tokenizer = SentencePieceTokenizer(model.getvalue())
    assert tokenizer.exact and tokenizer.encode("of the fox") == tokenizer._processor.encode("of the fox")
    assert "of▁the" in "".join(map(tokenizer._processor.id_to_piece, tokenizer.encode("of the fox")))
    assert len(tokenizer.encode("of the")) < len([*tokenizer.encode("of"), *tokenizer.encode(" the")])


# ── Training ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_training_repeats_itself_and_follows_the_text(tokenizer: SentencePieceTokenizer) -> None:
    assert train_sentencepiece(write_texts(), 380).fingerprint() == tokenizer.fingerprint()
    assert train_sentencepiece(write_texts(seed=9), 380).fingerprint() != tokenizer.fingerprint()


def test_training_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    train_sentencepiece(write_texts(20), 320)
    assert capfd.readouterr() == ("", "")


def test_long_lines_are_trained_on_too() -> None:
    long_line = " ".join(["hippopotamus"] * 2000)  # SentencePiece alone would skip it
    tokenizer = train_sentencepiece(iter([long_line, *write_texts(20)]), 380)
    assert len(tokenizer.encode(" hippopotamus")) == 1


def test_the_sample_is_bounded_even_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_lines, "_TRAINING_CHARACTERS", 10_000)
    lines = [f"{i:010}" for i in range(20_000)]
    sample = training_lines.sample_lines(iter("\n".join(lines[i : i + 10]) for i in range(0, len(lines), 10)))
    assert len(sample) == 1000
    assert sample == sorted(sample) and set(sample) <= set(lines)
    quarters = np.histogram([int(line) for line in sample], bins=4, range=(0, 20_000))[0]
    assert (abs(quarters - 250) < 60).all(), quarters


def test_a_vocabulary_that_does_not_suit_the_text_is_told_with_the_one_that_does() -> None:
    with pytest.raises(UserError, match=r"data\.vocab_size=50000.*at most (\d+)") as error:
        train_sentencepiece(write_texts(20), 50_000)
    largest = int(str(error.value).rstrip(".").split()[-1])
    assert train_sentencepiece(write_texts(20), largest).vocab_size == largest
    with pytest.raises(UserError, match=r"data\.vocab_size=100 is .*at least (\d+)") as error:
        train_sentencepiece(write_texts(20), 100)
    smallest = int(str(error.value).rstrip(".").split()[-1])
    assert train_sentencepiece(write_texts(20), smallest).vocab_size == smallest
    for texts in ([], ["\n\n"]):
        with pytest.raises(UserError, match=r"data\.source has no text"):
            train_sentencepiece(iter(texts), 380)


# ── Kept and found ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_saved_tokenizer_is_the_same(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.encode("a lazy dog\n") == tokenizer.encode("a lazy dog\n")
    by_spec = open_tokenizer(f"sentencepiece:{tmp_path}/sentencepiece.model")
    assert by_spec is not None and by_spec.fingerprint() == tokenizer.fingerprint()
    assert open_tokenizer("sentencepiece") is None


def test_a_damaged_tokenizer_is_told(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"kind": "abacus"}')
    with pytest.raises(UserError, match="abacus"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("spec", ["", "spm", "sentencepiece:", "openai"])
def test_another_form_of_tokenizer_is_refused_with_the_forms_told(spec: str) -> None:
    with pytest.raises(UserError, match=r"data\.tokenizer.*sentencepiece:FILE\.model"):
        open_tokenizer(spec)


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x00" * 100])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.model").write_bytes(content)
    with pytest.raises(UserError, match=r"data\.tokenizer.*a\.model"):
        open_tokenizer(f"sentencepiece:{tmp_path}/a.model")


@pytest.mark.parametrize("options", [{}, {"normalization_rule_name": "identity"}])
def test_a_model_that_keeps_no_line_breaks_encodes_as_it_does(options: dict[str, object]) -> None:
    model = train_plain(**options)
    tokenizer = SentencePieceTokenizer(model)
    text = "\n".join(write_texts(40)) + " ▁ the\n\n fox "
    assert tokenizer.encode(text) == sentencepiece.SentencePieceProcessor(model_proto=model).encode(text)
    assert tokenizer.decode(tokenizer.encode("a lazy  dog ")).split() == ["a", "lazy", "dog"]


def test_a_model_without_an_end_piece_has_none() -> None:
    assert SentencePieceTokenizer(train_plain(eos_id=-1)).end_id is None
