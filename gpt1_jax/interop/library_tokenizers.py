"""The files of a tokenizer of Hugging Face's library beside weights, for AutoTokenizer and for convert."""

import contextlib
import json
from pathlib import Path
from typing import Any

from gpt1_jax.data.tokenizers.huggingface import (
    FORMS,
    TOKENIZER_JSON,
    HuggingFaceTokenizer,
    open_huggingface,
)

# This class takes tokenizer.json as it is; others build a tokenizer of their own.
_CLASS = "PreTrainedTokenizerFast"


def is_library_s(described: object) -> bool:
    """Returns whether a tokenizer.json has pieces of bytes or of words, as GPT-2 and BERT have."""
    parts = described if isinstance(described, dict) else {}
    kinds = [part.get("type") for name in ("model", "decoder") if isinstance(part := parts.get(name), dict)]
    return "WordPiece" in kinds or "ByteLevel" in kinds


def find_files(directory: Path) -> HuggingFaceTokenizer | None:
    """Opens the tokenizer in a directory, or returns None if there is none of the library's.

    Raises:
        OSError, UserError, ValueError: a file is damaged.
    """
    if not any(all((directory / name).is_file() for name in form) for form in FORMS):
        return None
    tokenizer = open_huggingface(directory)
    # A tokenizer.json that `files_of` made of other files adds nothing to these.
    for name in ("vocab.txt", "vocab.json"):
        if TOKENIZER_JSON in tokenizer.files and (directory / name).is_file():
            with contextlib.suppress(OSError, ValueError):
                other = open_huggingface(directory / name)
                forms = [files_of(other, surrounded)[TOKENIZER_JSON] for surrounded in (False, True)]
                if tokenizer.files[TOKENIZER_JSON] in forms:
                    return other
    return tokenizer


def files_of(tokenizer: HuggingFaceTokenizer, surrounded: bool) -> dict[str, bytes]:
    """Returns what `find_files` finds: the files as they were read, and those in other forms that say the same.

    Args:
        tokenizer: the tokenizer.
        surrounded: whether the model reads a text between [CLS] and [SEP], as one that fills masks does.
    """
    files = dict(tokenizer.files)
    described = json.loads(tokenizer.described())
    if TOKENIZER_JSON not in files:
        described["post_processor"] = _surround(tokenizer) if surrounded else None
        if not surrounded:
            # A text may name the mask, see `HuggingFaceTokenizer`; `auto_config` hides the pieces that are special.
            for token in described["added_tokens"]:
                token["special"] &= token["id"] != tokenizer.special_ids.get("mask")
        files[TOKENIZER_JSON] = _json(described)
    for name, content in _other_forms(described).items():
        files.setdefault(name, content)
    return files


def auto_config(tokenizer: HuggingFaceTokenizer, surrounded: bool, context_length: int) -> bytes:
    """Returns a tokenizer_config.json with which AutoTokenizer gives the ids that are used here; see `files_of`."""
    words = json.loads(tokenizer.described())["model"]["type"] == "WordPiece"
    roles = tokenizer.special_ids if surrounded else tokenizer.special_ids.keys() & {"pad"}
    named = {f"{role}_token": tokenizer.piece(tokenizer.special_ids[role]) for role in roles}
    if tokenizer.end_id is not None:
        named["eos_token"] = tokenizer.piece(tokenizer.end_id)
    return _json(
        {
            "tokenizer_class": _CLASS,
            "model_max_length": context_length,
            "model_input_names": ["input_ids", *(["token_type_ids"] if surrounded else []), "attention_mask"],
            "clean_up_tokenization_spaces": False,
            # The names of special pieces in a text are plain characters, except to a BERT and its WordPiece.
            "split_special_tokens": not (surrounded or words),
            **named,
        }
    )


def _other_forms(described: dict[str, Any]) -> dict[str, bytes]:
    """Returns BERT's file, or GPT-2's two, of a tokenizer.json whose model is of that kind."""
    model, decoder = described["model"], described["decoder"]
    ids = dict(model["vocab"]) if isinstance(model["vocab"], dict) else {}
    ids |= {token["content"]: token["id"] for token in described["added_tokens"]}
    pieces = sorted(ids, key=ids.__getitem__)
    if sorted(ids.values()) != list(range(len(ids))) or any("\n" in piece for piece in pieces):
        return {}
    if model["type"] == "WordPiece":
        return {"vocab.txt": "".join(f"{piece}\n" for piece in pieces).encode()}
    if model["type"] == "BPE" and decoder is not None and decoder["type"] == "ByteLevel":
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        lines = ["#version: 0.2", *merges, ""]
        return {
            "vocab.json": json.dumps(ids, ensure_ascii=False).encode(),
            "merges.txt": "\n".join(lines).encode(),
        }
    return {}


def _surround(tokenizer: HuggingFaceTokenizer) -> dict[str, Any] | None:
    """Returns the rule that puts BERT's special pieces around a text, or around and between two."""
    if not {"cls", "sep"} <= tokenizer.special_ids.keys():
        return None
    ids = {
        str(tokenizer.piece(tokenizer.special_ids[role])): tokenizer.special_ids[role]
        for role in ("cls", "sep")
    }
    start, end = ids

    def special(name: str, kind: int = 0) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    first, second = ({"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [special(start), first, special(end)],
        "pair": [special(start), first, special(end), second, special(end, 1)],
        "special_tokens": {name: {"id": name, "ids": [id], "tokens": [name]} for name, id in ids.items()},
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
