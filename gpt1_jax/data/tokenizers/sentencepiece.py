"""SentencePiece, trained on a source or supplied by the user."""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import sentencepiece
from etils import epath

from gpt1_jax.data.tokenizers.sentencepiece_model import describe
from gpt1_jax.data.tokenizers.training_lines import sample_lines
from gpt1_jax.data.tokenizers.word_memory import SPACED_WORDS, WORTH_REMEMBERING, WordMemory
from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.errors import UserError

# Long texts are cut before encoding, which divides the work evenly and is twice as fast as 1 MB at once.
_CHUNK_CHARACTERS = 16_000


class SentencePieceTokenizer:
    """A SentencePiece model; with one from `train_sentencepiece`, decode(encode(text)) is always the text."""

    def __init__(self, model: bytes) -> None:
        """Takes the content of a .model file.

        Raises:
            ValueError: the content is something else.
        """
        try:
            described = describe(model)
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        # protobuf and SentencePiece each raise errors of their own.
        except Exception as error:
            raise ValueError("it is not a SentencePiece model") from error
        if not described.pieces:
            raise ValueError("it is not a SentencePiece model")
        self.model = model
        self.vocab_size: int = self._processor.vocab_size()
        eos_id: int = self._processor.eos_id()
        self.end_id: int | None = eos_id if eos_id >= 0 else None
        self.special_ids: Mapping[str, int] = {}
        # A model made by `train_sentencepiece` is exact: its texts may be cut at line breaks, and the one character
        # that it would lose is spelled in bytes.
        self.exact = described.exact
        self._alone = "▁" if self.exact else None
        # There no piece goes on behind a line break, or from a sign to a space.
        self._may_remember = self.exact and described.apart
        self._memory = WordMemory(SPACED_WORDS, self._processor.encode)
        self._alone_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in "▁".encode()]

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text; "</s>" and the like in it are plain characters."""
        return self.encode_batch([text], threads=1)[0].tolist()

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[np.ndarray]:
        """Returns the ids of each text, int32 [N], found by at most `threads` threads."""
        chunks_of_texts = [self._cut(text) for text in texts]
        flat = [chunk for chunks in chunks_of_texts for chunk in chunks if chunk != self._alone]
        if self._may_remember and min(threads, os.cpu_count() or 1) <= WORTH_REMEMBERING:
            encoded = map(self._memory.encode, flat)
        else:
            # These threads do not hold Python's lock.
            encoded = iter(self._processor.encode(flat, num_threads=threads))
        return [
            np.concatenate(
                [
                    np.array(self._alone_ids if chunk == self._alone else next(encoded), np.int32)
                    for chunk in chunks
                ]
            )
            for chunks in chunks_of_texts
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids; the end piece has no text."""
        return self._processor.decode([int(id) for id in ids])

    def fingerprint(self) -> str:
        """Returns a hash of the model file."""
        return hashlib.sha256(self.model).hexdigest()

    def save(self, directory: epath.PathLike) -> None:
        """Writes the model and the kind of tokenizer."""
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / "sentencepiece.model", self.model)
        write_whole(directory / "tokenizer.json", json.dumps({"kind": "sentencepiece"}) + "\n")

    def _cut(self, text: str) -> list[str]:
        """Cuts a text where that changes no id: after line breaks, and around each "▁".

        SentencePiece writes spaces as "▁" internally, so a "▁" in the text would come back as a space.
        """
        if not self.exact:
            return [text]
        chunks: list[str] = []
        for part in re.split("(▁)", text):
            start = 0
            while len(part) - start > _CHUNK_CHARACTERS:
                end = part.find("\n", start + _CHUNK_CHARACTERS) + 1
                if end == 0:
                    break
                chunks.append(part[start:end])
                start = end
            chunks.append(part[start:])
        return chunks


def train_sentencepiece(texts: Iterator[str], vocab_size: int) -> SentencePieceTokenizer:
    """Trains BPE pieces on a sample drawn evenly from `texts`; the same texts give the same tokenizer.

    No character is changed: normalization is the identity, spaces are neither added nor collapsed, a line break is a
    piece of its own, and characters without a piece are spelled in bytes. Piece 0 is `<unk>`, which is never used, and
    piece 1 is `</s>`, the end of a document.

    Raises:
        UserError: the texts are empty, or `vocab_size` does not suit them.
    """
    lines = sample_lines(texts)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            byte_fallback=True,
            user_defined_symbols=["\n"],
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            # The number is written into the model, whose bytes should be the same on any machine.
            num_threads=16,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(_explain(str(error), vocab_size)) from error
    return SentencePieceTokenizer(model.getvalue())


def _explain(message: str, vocab_size: int) -> str:
    """Returns a sentence on what SentencePiece found wrong with the vocabulary size."""
    if found := re.search(r"Vocabulary size too high .* <= (\d+)", message):
        return f"data.vocab_size={vocab_size} is too large for this text; set at most {found[1]}."
    if found := re.search(r"Vocabulary size is smaller than required_chars. \d+ vs (\d+)", message):
        return (
            f"data.vocab_size={vocab_size} is too small for this text's characters and the 256 bytes; set at least "
            f"{found[1]}."
        )
    return f"data.vocab_size={vocab_size} is one that SentencePiece cannot train on this text ({message}); set another."
