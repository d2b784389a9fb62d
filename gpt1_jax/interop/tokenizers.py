"""The tokenizer that lies beside other programs' weights: found by its files' names, and written under them."""

import json
from pathlib import Path
from typing import Any

from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.gpt1 import HUGGING_FACE_FILES, OPENAI_FILES, OpenAITokenizer, open_openai
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.interop.files import read_json, shown
from gpt1_jax.interop.tokenizer_json import TOKENIZER_CONFIG, TOKENIZER_JSON

SENTENCEPIECE = "sentencepiece.model"

_ADDED = "added_tokens.json"


def find_tokenizer(directory: Path, rows: int) -> Tokenizer:
    """The tokenizer whose files lie in a directory: a SentencePiece model, or the published BPE by any of its names.

    Where there are none it is the one that has `rows` pieces and no text.

    Raises:
        UserError: they are incomplete or damaged, or a tokenizer.json of another kind is all there is.
    """
    path = directory / SENTENCEPIECE
    try:
        if path.is_file():
            return SentencePieceTokenizer(path.read_bytes())
        if any((directory / name).is_file() for name in OPENAI_FILES + HUGGING_FACE_FILES):
            path = directory
            return open_openai(directory)
        path = directory / TOKENIZER_JSON
        if path.is_file():
            return _read_bpe(path)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).replace(f"{directory}/", "").split())[:200]
        raise UserError(
            f"{path} has no vocabulary that can be read ({reason}); restore it from where it came, or name "
            "the tokenizer by --tokenizer."
        ) from error
    return NoTokenizer(rows)


def find_added(directory: Path, pieces: int) -> list[str]:
    """The names of the tokens that were added behind a tokenizer's pieces, by the order of their ids.

    Raises:
        UserError: a file that tells them is damaged, or their ids do not follow the pieces.
    """
    names: dict[int, str] = {}
    for path in (directory / _ADDED, directory / TOKENIZER_JSON, directory / TOKENIZER_CONFIG):
        if path.is_file():
            names |= _read_added(path)
    added = {number: name for number, name in names.items() if number >= pieces}
    if added and sorted(added) != list(range(pieces, pieces + len(added))):
        raise UserError(
            f"{directory} has added tokens whose ids are {shown(sorted(added))}, expected those from {pieces} on, one "
            "after the other, behind the tokenizer's pieces; bring files that belong together."
        )
    return [added[number] for number in sorted(added)]


def write_tokenizer(tokenizer: Tokenizer, directory: Path, names: tuple[str, str]) -> None:
    """Writes the tokenizer's own bytes, where it has any, so that `find_tokenizer` gives it back.

    Args:
        names: of the published BPE's two files: its pieces, and its merges.
    """
    if isinstance(tokenizer, SentencePieceTokenizer):
        (directory / SENTENCEPIECE).write_bytes(tokenizer.model)
    elif isinstance(tokenizer, OpenAITokenizer):
        (directory / names[0]).write_bytes(tokenizer.encoder)
        (directory / names[1]).write_bytes(tokenizer.merges)


def _read_bpe(path: Path) -> OpenAITokenizer:
    """GPT-1's BPE out of the one file that transformers saves since its version 5.

    Raises:
        UserError: it is another kind of tokenizer.
        ValueError: it is damaged.
    """
    described = read_json(path)
    model = _part(described, "model")
    marks = {
        "model.type": (model.get("type"), "BPE"),
        "model.end_of_word_suffix": (model.get("end_of_word_suffix"), "</w>"),
        "normalizer.type": (_part(described, "normalizer").get("type"), "BertNormalizer"),
        "normalizer.lowercase": (_part(described, "normalizer").get("lowercase"), True),
        "pre_tokenizer.type": (_part(described, "pre_tokenizer").get("type"), "BertPreTokenizer"),
    }
    for key, (found, expected) in marks.items():
        if found != expected:
            raise UserError(
                f"{path} is no tokenizer of GPT-1's kind: {key} is {shown(found)}, not {expected!r}; name its "
                "tokenizer by --tokenizer=openai:DIR or --tokenizer=sentencepiece:FILE.model."
            )
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        raise ValueError("it has no model.vocab and model.merges")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    if not all(isinstance(pair, list) and list(map(type, pair)) == [str, str] for pair in pairs):
        raise ValueError("its model.merges are not pairs of pieces")
    lines = ["#version: 0.2", *map(" ".join, pairs), ""]
    return OpenAITokenizer(json.dumps(vocabulary).encode(), "\n".join(lines).encode())


def _part(described: object, key: str) -> dict[str, Any]:
    part = described.get(key) if isinstance(described, dict) else None
    return part if isinstance(part, dict) else {}


def _read_added(path: Path) -> dict[int, str]:
    """What a file tells of added tokens, names by ids; some files tell of pieces too.

    Raises:
        UserError: it is damaged.
    """
    described = read_json(path)
    try:
        if path.name == _ADDED:
            pairs = [(number, name) for name, number in described.items()]
        elif path.name == TOKENIZER_JSON:
            pairs = [(token["id"], token["content"]) for token in described.get("added_tokens") or []]
        else:
            listed = described.get("added_tokens_decoder") or {}
            pairs = [(int(number), token["content"]) for number, token in listed.items()]
        if all(type(number) is int and isinstance(name, str) for number, name in pairs):
            return dict(pairs)
    except (AttributeError, KeyError, TypeError, ValueError):
        pass  # the sentence below tells all of these
    raise UserError(f"{path} does not tell added tokens by ids and names; restore it from where it came.")
