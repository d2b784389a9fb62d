"""Documents of a window that are kept apart: who attends to whom, what predicts a token, where positions begin."""

import numpy as np
import pytest
from support import tiny_config
from vocabulary_support import golden

from gpt1_jax.data.batches import EvaluationBatches, PretrainingBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.documents import Documents
from gpt1_jax.data.masked import MaskedBatches, MaskedEvaluationBatches, Masking
from gpt1_jax.data.text_batches import evaluation_batches, training_batches
from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.library_training import train_wordpiece
from gpt1_jax.errors import UserError

END = 9
APART = {"data.mask_documents": True, "data.restart_positions": True}


def stream(documents: list[list[int]], end: int = END) -> Split:
    tokens = [end, *(token for document in documents for token in [*document, end])]
    return Split((np.array(tokens, np.uint16),), len(documents), 1)


def test_an_end_piece_opens_the_next_document_as_an_input_and_ends_its_own_as_a_target() -> None:
    tokens = np.array([[9, 1, 2, 9, 3, 9, 9, 4]])
    groups, places = Documents(END, apart=True, restart=True).read(tokens)
    assert groups is not None and places is not None
    np.testing.assert_array_equal(groups, [[1, 1, 1, 2, 2, 3, 4, 4]])
    np.testing.assert_array_equal(places, [[0, 1, 2, 0, 1, 0, 0, 1]])
    # A document that began in the window before.
    groups, places = Documents(END, apart=True, restart=True).read(np.array([[5, 6, 9, 7]]))
    np.testing.assert_array_equal((groups, places), [[[0, 0, 1, 1]], [[0, 1, 0, 1]]])
    assert Documents(END, apart=True).read(tokens)[1] is None
    assert Documents(END).read(tokens) == (None, None)


def test_no_token_of_a_batch_is_predicted_from_another_document() -> None:
    documents = [[1 + i % 8] * (1 + i * i % 7) for i in range(60)]
    split, treated = stream(documents), Documents(END, apart=True, restart=True)
    whole = split.read(0, len(split))
    number = np.cumsum(whole == END) - (whole == END)
    for batches in (
        PretrainingBatches(split, seed=0, batch_size=4, context_length=16, documents=treated),
        EvaluationBatches(split, batch_size=4, context_length=16, documents=treated),
    ):
        for step in range(3):
            batch = batches.rows(step, 0, 4)
            assert (
                batch.groups is not None and batch.positions is not None and batch.groups.shape == (4, 1, 16)
            )
            for row, start in enumerate(batches.starts(step, 0, 4).tolist()):
                size = min(16, len(split) - 1 - start)
                for place in range(size):
                    seen = np.flatnonzero(batch.groups[row, 0, : place + 1] == batch.groups[row, 0, place])
                    # What is seen is the target's document, and the end piece before it.
                    own = number[start + place + 1]
                    assert all(
                        number[start + other] == own or (other == seen[0] and whole[start + other] == END)
                        for other in seen
                    )
                    assert batch.positions[row, 0, place] == place - seen[0]
                    # And all of it that lies in the window.
                    first = seen[0]
                    assert first == 0 or whole[start + first] == END


def test_a_model_that_sees_both_ways_keeps_an_end_piece_with_the_document_that_it_ends() -> None:
    groups, places = Documents(END, apart=True, restart=True).enclosed(np.array([1, 2, 9, 3, 9, 4]))
    np.testing.assert_array_equal(groups, [0, 0, 0, 0, 1, 1, 2, 2])
    # As behind a [CLS].
    np.testing.assert_array_equal(places, [0, 1, 2, 3, 1, 2, 1, 2])
    groups, places = Documents(END, apart=True).enclosed(np.array([1, 9]))
    np.testing.assert_array_equal((groups, places), [[0, 0, 0, 0], [0, 1, 2, 3]])


def test_masked_windows_keep_documents_apart_and_hide_what_they_hid_before() -> None:
    texts = [row["text"] for row in golden()]
    tokenizer = train_wordpiece(iter(texts), 700)
    assert tokenizer.end_id is not None
    split = stream([ids.tolist() for ids in tokenizer.encode_batch(texts, threads=1)], tokenizer.end_id)
    treated = Documents(tokenizer.end_id, apart=True, restart=True)
    masking, sizes = Masking.of(tokenizer, False), {"batch_size": 4, "context_length": 66}
    pairs = (
        [MaskedBatches(split, masking, seed=0, **sizes, documents=x) for x in (Documents(), treated)],
        [MaskedEvaluationBatches(split, masking, **sizes, documents=x) for x in (Documents(), treated)],
    )
    several = 0
    for before, now in pairs:
        for step in range(2):
            one, other = before.rows(step, 0, 4), now.rows(step, 0, 4)
            for array, same in zip(one[:5], other[:5], strict=True):
                np.testing.assert_array_equal(array, same)
            assert other.groups is not None and other.positions is not None and one.positions is None
            several += (other.groups.max((1, 2)) > 0).sum()
            assert ((other.groups == -1) == (0 if one.groups is None else one.groups == -1)).all()
    assert several > 4


def test_what_has_no_documents_to_keep_apart_is_told() -> None:
    with pytest.raises(UserError, match=r"data\.restart_positions=True needs data\.mask_documents=True"):
        tiny_config(**{"data.restart_positions": True})
    with pytest.raises(UserError, match=r"mask_documents=True does not go with model\.kind=lstm"):
        tiny_config(**{"model.kind": "lstm", "model.num_layers": 1, "data.mask_documents": True})
    config, split = tiny_config(**APART), stream([[1, 2, 3]] * 40)
    for make in (
        lambda: training_batches(config, NoTokenizer(10), split),
        lambda: evaluation_batches(config, NoTokenizer(10), split, 2),
    ):
        with pytest.raises(UserError, match=r"data\.tokenizer=\w+ has no piece that ends one"):
            make()
