"""Writes a SentencePiece model as a tokenizer.json for Hugging Face's `tokenizers`, which transformers uses.

The library's BPE does what SentencePiece's does if it knows every pair that makes a piece, with the pairs of the
best-scored piece first. Where SentencePiece writes "▁" in a piece, the file has a space. A "▁" in a text therefore has
no piece and is spelled in bytes, as it is here.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from gpt1_jax.data.tokenizers.sentencepiece_model import (
    CONTROL,
    MODEL_TYPES,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    describe,
    parse,
)
from gpt1_jax.model.specials import Specials, special_ids
from gpt1_jax.tasks.task import Kind

TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

_AS_IT_STANDS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}

# Any other class reads other files. OpenAIGPTTokenizer, the default for this type of model, works without files and
# then has a vocabulary of only "<unk>". This class fails if there is no tokenizer.json.
_CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}
_SPECIALS = tuple(f"<|{name}|>" for name in Specials._fields)


def why_not(model: bytes) -> str | None:
    """Returns why tokenizer.json cannot express a SentencePiece model faithfully, or None if it can."""
    parsed = parse(model)
    normalizer, pieces = parsed.normalizer, parsed.pieces
    scores = [piece.score for piece in pieces if piece.type == NORMAL]
    names = [piece.piece for piece in pieces]
    others = [piece.piece for piece in pieces if piece.type not in (NORMAL, USER_DEFINED)]
    if parsed.trainer.model_type != 2:
        return f"its model_type is {MODEL_TYPES.get(parsed.trainer.model_type, 'unknown')}, not bpe"
    if normalizer.precompiled_charsmap or parsed.denormalizer.precompiled_charsmap:
        return f"it normalizes texts by the rule {normalizer.name!r}"
    if normalizer.add_dummy_prefix:
        return "it puts a space in front of texts"
    if normalizer.remove_extra_whitespaces or not normalizer.escape_whitespaces:
        return "it changes spaces"
    if any(piece.type == UNUSED for piece in pieces):
        return "it has pieces that must not be used"
    if not np.isfinite(scores).all() or len(set(scores)) < len(scores):
        return "its pieces are not ordered by their scores"
    if any(" " in name for name in names) or any(len(name) == 1 for name in others):
        return "it has pieces with odd names"
    if len({*_vocabulary(pieces), *_SPECIALS}) < len(names) + len(_SPECIALS):
        return "two of its pieces have the same name"
    return None


def write_tokenizer_json(
    tokenizer: SentencePieceTokenizer, directory: Path, context_length: int, kind: Kind | None
) -> None:
    """Writes tokenizer.json and tokenizer_config.json for a model that `why_not` does not object to.

    Args:
        tokenizer: the tokenizer to write.
        directory: where to write.
        context_length: the most ids that the model reads.
        kind: of the task that the model was fine-tuned on; then three specials follow the pieces, and are put around
            texts as the task has them. None of a language model, which has no specials.
    """
    pieces = parse(tokenizer.model).pieces
    vocabulary = _vocabulary(pieces)
    config: dict[str, Any] = _CLASS | {
        "model_max_length": context_length,
        # Token types would add another embedding.
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        # The names of special pieces in a text are plain characters.
        "split_special_tokens": True,
        "unk_token": next(piece.piece for piece in pieces if piece.type == UNKNOWN),
    }
    if tokenizer.end_id is not None:
        config["eos_token"] = pieces[tokenizer.end_id].piece
    if kind is not None:
        vocabulary |= zip(_SPECIALS, special_ids(len(pieces)), strict=True)
        config["pad_token"] = pieces[0].piece
    described = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": _spaced(piece.piece), "special": False} | _AS_IT_STANDS
            for number, piece in enumerate(pieces)
            if piece.type == USER_DEFINED
        ],
        "normalizer": None if describe(tokenizer.model).exact else _replace("String", "▁", " "),
        "pre_tokenizer": None,
        "post_processor": None if kind is None else _surround(vocabulary, kind),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                *(_replace("Regex", rf"\A{re.escape(p.piece)}\z", "") for p in pieces if p.type == CONTROL),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": config["unk_token"],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": parse(tokenizer.model).trainer.byte_fallback,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": _merges(pieces),
        },
    }
    _write(directory / TOKENIZER_JSON, described)
    _write(directory / TOKENIZER_CONFIG, config)


def write_no_tokenizer(directory: Path) -> None:
    """Writes a file that makes AutoTokenizer fail in this directory, instead of reading every text as unknown."""
    _write(directory / TOKENIZER_CONFIG, _CLASS)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _vocabulary(pieces: Any) -> dict[str, int]:
    return {
        _spaced(piece.piece) if piece.type in (NORMAL, USER_DEFINED) else piece.piece: number
        for number, piece in enumerate(pieces)
    }


def _merges(pieces: Any) -> list[tuple[str, str]]:
    """Returns every pair of pieces that makes a third, beginning with the pairs of the best-scored piece."""
    scores = {_spaced(piece.piece): piece.score for piece in pieces if piece.type == NORMAL}
    return [
        (whole[:cut], whole[cut:])
        for whole in sorted(scores, key=scores.__getitem__, reverse=True)
        for cut in range(1, len(whole))
        if whole[:cut] in scores and whole[cut:] in scores
    ]


def _spaced(piece: str) -> str:
    return piece.replace("▁", " ")


def _replace(form: str, pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {form: pattern}, "content": content}


def _surround(vocabulary: dict[str, int], kind: Kind) -> dict[str, Any]:
    """Returns the rule that puts the specials around a text, or around and between two; a prompt has no end."""
    start, delimiter, extract = ({"SpecialToken": {"id": name, "type_id": 0}} for name in _SPECIALS)
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [start, first, delimiter if kind == "completion" else extract],
        "pair": [start, first, delimiter, second, extract],
        "special_tokens": {
            name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in _SPECIALS
        },
    }
