"""The tokenizer beside other programs' weights: finds it by the names of its files, and writes it under them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.gpt1 import HUGGING_FACE_FILES, OPENAI_FILES, OpenAITokenizer, open_openai
from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.interop.families import GPT1
from gpt1_jax.interop.family import Family
from gpt1_jax.interop.json_files import read_json, shown
from gpt1_jax.interop.library_tokenizers import auto_config, files_of, find_files, is_library_s
from gpt1_jax.interop.published import LanguageModel
from gpt1_jax.interop.tokenizer_json import (
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    why_not,
    write_no_tokenizer,
    write_tokenizer_json,
)

SENTENCEPIECE = "sentencepiece.model"

_ADDED = "added_tokens.json"


def find_tokenizer(directory: Path, rows: int, family: Family = GPT1) -> Tokenizer:
    """Finds the tokenizer in a directory by the names of its files.

    It is a SentencePiece model, the published BPE of GPT-1 under any of its names, or one of Hugging Face's library.
    Without any the result is a stand-in with `rows` pieces and no text.

    Args:
        directory: where to look.
        rows: the rows of the token table.
        family: that of the model, since GPT-1 and GPT-2 use the same names of files.

    Raises:
        UserError: files are missing or damaged, or there is only a tokenizer.json of another kind.
    """
    path = directory / SENTENCEPIECE
    try:
        if path.is_file():
            return SentencePieceTokenizer(path.read_bytes())
        path = directory
        if any((directory / name).is_file() for name in OPENAI_FILES):
            return open_openai(directory)
        whole = directory / TOKENIZER_JSON
        if family is not GPT1 or (whole.is_file() and is_library_s(read_json(whole))):
            return find_files(directory) or NoTokenizer(rows)
        if any((directory / name).is_file() for name in HUGGING_FACE_FILES):
            return open_openai(directory)
        path = whole
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
    """Returns the names of the tokens that were added after a tokenizer's pieces, in the order of their ids.

    Raises:
        UserError: a file that lists them is damaged, or their ids do not follow those of the pieces.
    """
    names: dict[int, str] = {}
    for path in (directory / _ADDED, directory / TOKENIZER_JSON, directory / TOKENIZER_CONFIG):
        if path.is_file():
            names |= _read_added(path)
    added = {number: name for number, name in names.items() if number >= pieces}
    if added and sorted(added) != list(range(pieces, pieces + len(added))):
        raise UserError(
            f"{directory} has added tokens whose ids are {shown(sorted(added))}, expected those from {pieces} on, one "
            "after the other, following the tokenizer's pieces; bring files that belong together."
        )
    return [added[number] for number in sorted(added)]


def write_tokenizer(
    tokenizer: Tokenizer, directory: Path, names: tuple[str, str], surrounded: bool = False
) -> None:
    """Writes the tokenizer's own bytes, if it has any, so that `find_tokenizer` finds it again.

    Args:
        tokenizer: the tokenizer to write.
        directory: where to write.
        names: the names of the published BPE's two files, for its pieces and its merges.
        surrounded: whether the model reads a text between special pieces.
    """
    if isinstance(tokenizer, SentencePieceTokenizer):
        (directory / SENTENCEPIECE).write_bytes(tokenizer.model)
    elif isinstance(tokenizer, OpenAITokenizer):
        (directory / names[0]).write_bytes(tokenizer.encoder)
        (directory / names[1]).write_bytes(tokenizer.merges)
    elif isinstance(tokenizer, HuggingFaceTokenizer):
        for name, content in files_of(tokenizer, surrounded).items():
            (directory / name).write_bytes(content)


def write_for_transformers(model: LanguageModel, directory: Path, tell: Callable[[str], None]) -> None:
    """Writes what AutoTokenizer needs beside the tokenizer's own files, or a file that makes AutoTokenizer fail."""
    tokenizer, context = model.tokenizer, model.config.context_length
    kind = model.head.task.kind if model.head is not None and model.config.causal else None
    if isinstance(tokenizer, HuggingFaceTokenizer):
        if TOKENIZER_CONFIG not in tokenizer.files:
            (directory / TOKENIZER_CONFIG).write_bytes(
                auto_config(tokenizer, not model.config.causal, context)
            )
        if kind is not None:
            tell("AutoTokenizer gives the ids of texts; put <s>, $ and <e> around them.")
        return
    if isinstance(tokenizer, OpenAITokenizer) and model.family is GPT1:
        tell(
            "transformers' tokenizer of GPT-1 leaves out line breaks and accents, and splits some words differently "
            "from the authors; for the ids that are used here, encode with gpt1_jax.tokenize."
        )
        return
    if isinstance(tokenizer, SentencePieceTokenizer):
        reason = why_not(tokenizer.model)
        if reason is None:
            write_tokenizer_json(tokenizer, directory, context, kind)
            if kind == "completion":
                tell("AutoTokenizer puts <s> and $ around a prompt by itself.")
            elif kind is not None:
                tell("AutoTokenizer puts <s>, $ and <e> around a text, or two, by itself.")
            return
        tell(
            f"The SentencePiece model cannot be written as tokenizer.json, because {reason}; AutoTokenizer refuses the "
            f"directory, but the package sentencepiece reads {SENTENCEPIECE} there."
        )
    write_no_tokenizer(directory)


def _read_bpe(path: Path) -> OpenAITokenizer:
    """Reads GPT-1's BPE from the single file that transformers saves since its version 5.

    Raises:
        UserError: the file holds another kind of tokenizer.
        ValueError: the file is damaged.
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
                f"{path} is not a tokenizer of GPT-1's kind: {key} is {shown(found)}, not {expected!r}; name its "
                "tokenizer by --tokenizer=openai:DIR, huggingface:DIR or sentencepiece:FILE.model."
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
    """Returns the names of added tokens by their ids; some files list ordinary pieces as well.

    Raises:
        UserError: the file is damaged.
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
        # The sentence below covers all of these.
        pass
    raise UserError(f"{path} does not list added tokens by ids and names; restore it from where it came.")
