"""Byte-level BPE and WordPiece trained on a source, in the forms that GPT-2 and BERT publish.

Both begin with BERT's special pieces and GPT-2's, so that one vocabulary serves models of either kind.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from gpt1_jax.data.tokenizers.huggingface import BERT_PIECES, GPT2_END, UNKNOWN, HuggingFaceTokenizer
from gpt1_jax.data.tokenizers.training_lines import sample_lines
from gpt1_jax.errors import UserError

# As in BERT's vocabularies. A word with a rarer character is unknown.
_MOST_CHARACTERS = 1000
_FEWEST_CHARACTERS = 32


def train_byte_bpe(texts: Iterator[str], vocab_size: int) -> HuggingFaceTokenizer:
    """Trains pieces of bytes on a sample drawn evenly from `texts`; decode(encode(text)) is always the text.

    Piece 0 is `<|endoftext|>`, the end of a document; BERT's special pieces and the 256 bytes follow.

    Raises:
        UserError: the texts are empty, or `vocab_size` does not suit them.
    """
    lines = sample_lines(texts)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first = [GPT2_END, *BERT_PIECES, *alphabet]
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ids = _train(library, trainers.BpeTrainer(**_options(first, alphabet, vocab_size)), lines)
    merges = json.loads(library.to_str())["model"]["merges"]
    rows = "".join(f"{' '.join(merge)}\n" for merge in merges)
    return HuggingFaceTokenizer(
        {
            "vocab.json": json.dumps(ids, ensure_ascii=False).encode(),
            "merges.txt": f"#version: 0.2\n{rows}".encode(),
        }
    )


def train_wordpiece(texts: Iterator[str], vocab_size: int) -> HuggingFaceTokenizer:
    """Trains WordPiece on a sample drawn evenly from `texts`, in lower case and without accents.

    BERT's special pieces come first, then the characters, each alone and as the inside of a word.

    Raises:
        UserError: the texts are empty, or `vocab_size` does not suit them.
    """
    lines = sample_lines(texts)
    library = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts = Counter[str]()
    for line in lines:
        counts.update(library.normalizer.normalize_str(line))
    used = sorted(
        (character for character in counts if not character.isspace()), key=lambda c: (-counts[c], c)
    )
    # Characters take at most half of the pieces.
    most = max(_FEWEST_CHARACTERS, min(_MOST_CHARACTERS, vocab_size // 4))
    characters = sorted(used[:most])
    cls, sep, mask, pad = BERT_PIECES
    # The library would number the insides of words differently each time, and then merge other pairs of equal counts.
    first = [pad, UNKNOWN, cls, sep, mask, *characters, *(f"##{character}" for character in characters)]
    ids = _train(library, trainers.WordPieceTrainer(**_options(first, characters, vocab_size)), lines)
    return HuggingFaceTokenizer({"vocab.txt": "".join(f"{piece}\n" for piece in ids).encode()})


def _options(first: list[str], characters: list[str], vocab_size: int) -> dict[str, Any]:
    """Returns the settings of a trainer: its first pieces, and the only characters that it may use.

    Raises:
        UserError: `vocab_size` is too small for the first pieces.
    """
    if vocab_size < len(first):
        raise UserError(
            f"data.vocab_size={vocab_size} is too small for the special pieces and single characters; set at "
            f"least {len(first)}."
        )
    return {
        "vocab_size": vocab_size,
        "special_tokens": first,
        "initial_alphabet": characters,
        "limit_alphabet": len(characters),
        "show_progress": False,
    }


def _train(
    library: tokenizers.Tokenizer, trainer: trainers.BpeTrainer | trainers.WordPieceTrainer, lines: list[str]
) -> dict[str, int]:
    """Trains on lines and returns the ids of the pieces, in order.

    Raises:
        UserError: the text has fewer pieces than were asked for.
    """
    library.train_from_iterator(lines, trainer)
    ids = library.get_vocab()
    if len(ids) < trainer.vocab_size:
        raise UserError(
            f"data.vocab_size={trainer.vocab_size} is too large for this text; set at most {len(ids)}."
        )
    return dict(sorted(ids.items(), key=lambda entry: entry[1]))
