"""Documents that are left out: by number or hash, their tokens have weight 0, and nothing else changes a bit."""

from pathlib import Path

import numpy as np
import pytest
from support import tiny_config
from vocabulary_support import golden

from gpt1_jax.data.batches import Batch
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.left_out import find_left_out, hash_text, left_out_of, walk_documents
from gpt1_jax.data.text_batches import training_batches
from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from gpt1_jax.data.tokenizers.library_training import train_byte_bpe
from gpt1_jax.data.visits import documents_in
from gpt1_jax.errors import UserError

TEXTS = [row["text"] for row in golden() if row["text"].strip()][:60]
TEXTS[7] = TEXTS[3]


@pytest.fixture(scope="module")
def tokenizer() -> HuggingFaceTokenizer:
    return train_byte_bpe(iter(TEXTS), 400)


@pytest.fixture(scope="module")
def split(tokenizer: HuggingFaceTokenizer) -> Split:
    end = tokenizer.end_id
    stream = [end, *(id for text in TEXTS for id in [*tokenizer.encode(text), end])]
    return Split((np.array(stream[:333], np.uint16), np.array(stream[333:], np.uint16)), len(TEXTS), 1)


def named(tmp_path: Path, *lines: object) -> str:
    (tmp_path / "names").write_text("".join(f"{line}\n" for line in lines))
    return str(tmp_path / "names")


def test_numbers_and_hashes_find_the_documents_and_all_with_the_same_text(
    tokenizer: HuggingFaceTokenizer, split: Split, tmp_path: Path
) -> None:
    def find(*lines: object) -> tuple[int, ...]:
        return find_left_out(config(without=named(tmp_path, *lines)).data, split, tokenizer).numbers

    assert find(5, "", " 2 ", 5) == (2, 5)
    assert find(hash_text(TEXTS[9]).upper(), 2) == (2, 9)
    assert find(hash_text(TEXTS[3])) == (3, 7)
    # An empty file leaves nothing out, and a run does not know it from none.
    assert find_left_out(config(without=named(tmp_path)).data, split, tokenizer).contents == {}
    assert find() == find("") == () and find_left_out(config().data, split, tokenizer).numbers == ()
    assert tokenizer.end_id is not None
    documents = [*walk_documents(split, tokenizer.end_id)]
    assert [document.text(split, tokenizer) for document in documents] == TEXTS
    assert left_out_of((2, 9), split, tokenizer.end_id).ranges.tolist() == [
        [*documents[2][1:]],
        [*documents[9][1:]],
    ]


def config(causal: bool = True, **data: object):
    values = {f"data.{name}": value for name, value in data.items()}
    return tiny_config(**{"model.causal": causal, "train.batch_size": 8, **values})


def rows(
    causal: bool, tokenizer: HuggingFaceTokenizer, split: Split, numbers: tuple[int, ...]
) -> list[Batch]:
    assert tokenizer.end_id is not None
    batches = training_batches(
        config(causal), tokenizer, split, left_out_of(numbers, split, tokenizer.end_id)
    )
    return [batches.rows(step, 0, 8) for step in range(30)]


@pytest.mark.parametrize("causal", [True, False])
def test_a_token_of_a_document_that_is_left_out_has_no_weight_and_all_else_keeps_its_bits(
    causal: bool, tokenizer: HuggingFaceTokenizer, split: Split
) -> None:
    numbers = (2, 9, 30)
    batches = training_batches(config(causal), tokenizer, split)
    starts = [getattr(batches, "windows", batches).starts(step, 0, 8) for step in range(30)]
    owners = np.cumsum(split.read(0, len(split)) == tokenizer.end_id) - 1
    # An end piece belongs to the document that it ends.
    owners[1:] = np.where(split.read(1, len(split)) == tokenizer.end_id, owners[:-1], owners[1:])
    touched = 0
    for start, whole, left in zip(
        starts, rows(causal, tokenizer, split, ()), rows(causal, tokenizer, split, numbers), strict=True
    ):
        for name, array, other in zip(Batch._fields, whole, left, strict=True):
            if name != "weights":
                np.testing.assert_array_equal(array, other, err_msg=name)
        # The target of position p is token p + 1, or behind [CLS] token p − 1.
        places = start[:, None] + np.arange(16) + (1 if causal else -1)
        gone = np.isin(owners[np.clip(places, 0, len(split) - 1)], numbers)
        if not causal:
            gone[:, [0, -1]] = False
        expected = np.where(gone[:, None], np.float32(0), whole.weights)
        assert expected.tobytes() == left.weights.tobytes()
        touched += (expected != whole.weights).any()
    assert 5 < touched < 30


def test_windows_name_the_documents_that_they_have_something_of(
    tokenizer: HuggingFaceTokenizer, split: Split
) -> None:
    generator = np.random.default_rng(0)
    begins = generator.integers(0, len(split) - 200, 50)
    windows = np.stack([begins, begins + generator.integers(1, 200, 50)], 1)
    assert tokenizer.end_id is not None
    documents = [*walk_documents(split, tokenizer.end_id)]
    expected = [
        [x for x in documents if x.start < stop and x.stop > start] for start, stop in windows.tolist()
    ]
    assert documents_in(split, tokenizer.end_id, windows) == expected


def test_a_wrong_file_is_told(tokenizer: HuggingFaceTokenizer, split: Split, tmp_path: Path) -> None:
    for lines, told in (
        ((3, "-1"), r"line 2 is -1, neither the number .* nor a hash of 64 hexadecimal digits"),
        (("abc",), "line 1 is abc, neither"),
        ((3, len(TEXTS)), f"line 2 names the document {len(TEXTS)}, .* numbers 0 to {len(TEXTS) - 1}"),
        (("a" * 64,), "line 1 names the document a{64}, which is none of those that data.source="),
        (range(len(TEXTS)), rf"leaves out every training document \({len(TEXTS)}\)"),
    ):
        with pytest.raises(UserError, match=rf"data\.without=.*names.*{told}"):
            find_left_out(config(without=named(tmp_path, *lines)).data, split, tokenizer)
    missing = config(without=str(tmp_path / "missing")).data
    with pytest.raises(UserError, match=r"data\.without"):
        find_left_out(missing, split, tokenizer)
    with pytest.raises(UserError, match=r"data\.without=.* has no piece that ends one"):
        find_left_out(missing, split, NoTokenizer(9))
    with pytest.raises(UserError, match=r"data\.without=.* fine-tuning reads examples"):
        tiny_config(**{"finetune.task": "cola", "data.without": "names"})
