"""Whatever Hugging Face's `tokenizers` reads: GPT-2's byte-level BPE, BERT's WordPiece, any tokenizer.json.

The library's own threads do not survive a fork, and warn of that. So they are off, unless the user's environment says
otherwise, and threads of Python's share the work instead: the library lets go of Python's lock while it encodes.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tokenizers
from etils import epath
from tokenizers import decoders, models, normalizers, pre_tokenizers

from gpt1_jax.data.tokenizers.groups import grouped
from gpt1_jax.data.tokenizers.word_memory import (
    BYTE_WORDS,
    SPACED_WORDS,
    WORTH_REMEMBERING,
    WordMemory,
)
from gpt1_jax.disk.inputs import read_bytes
from gpt1_jax.disk.paths import expand
from gpt1_jax.disk.whole_files import write_whole

TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The files that make a tokenizer, the most telling first: the library's own, GPT-2's under two names, BERT's.
FORMS = ((TOKENIZER_JSON,), ("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"), ("vocab.txt",))
# The names that OpenAI gave GPT-2's files, beside those that all others use.
_NAMES = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}
_FOLDER = "huggingface"

# What BERT's and RoBERTa's special pieces are called, in the order of `_ROLES`, unless tokenizer_config.json says so.
_ROLES = ("cls", "sep", "mask", "pad")
BERT_PIECES = ("[CLS]", "[SEP]", "[MASK]", "[PAD]")
_ROBERTA_PIECES = ("<s>", "</s>", "<mask>", "<pad>")
GPT2_END = "<|endoftext|>"
_ENDS = (GPT2_END, "</s>")
UNKNOWN = "[UNK]"

# The settings of tokenizer_config.json that decide ids.
_SETTINGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
_MOST_PIECES = 2**24
# How pieces write white space: of bytes space, tab, line feed and carriage return; or space as in SentencePiece.
_SPACES = ("Ġ", "ĉ", "Ċ", "č", "▁", " ", "\n")

# Long texts are cut before encoding, so that threads share them and the library's positions stay small.
_CHUNK_CHARACTERS = 16_000
_GROUP_CHARACTERS = 250_000
_CUT = re.compile(r"(?<=\S)\n")


def open_huggingface(path: epath.PathLike) -> "HuggingFaceTokenizer":
    """Reads a tokenizer from a directory, or from a tokenizer.json and what lies beside it.

    Raises:
        OSError: there are no such files.
        UserError: a file cannot be read.
        ValueError: a file is damaged, or describes no tokenizer.
    """
    path = expand(path, "data.tokenizer")
    directory, forms = path, FORMS
    if not path.is_dir():
        directory = path.parent
        forms = tuple(form for form in FORMS if path.name in form) or ((path.name,),)
    names = next((form for form in forms if all((directory / name).exists() for name in form)), None)
    if names is None:
        raise FileNotFoundError(f"there is no {' and no '.join(map(' with '.join, forms))} in {directory}")
    files = {_NAMES.get(name, name): read_bytes(directory / name, "data.tokenizer") for name in names}
    if names not in FORMS:
        files = {TOKENIZER_JSON: files[path.name]}
    if (directory / TOKENIZER_CONFIG).exists():
        files[TOKENIZER_CONFIG] = read_bytes(directory / TOKENIZER_CONFIG, "data.tokenizer")
    return HuggingFaceTokenizer(files)


class HuggingFaceTokenizer:
    """A tokenizer of the library `tokenizers`.

    A WordPiece model finds the names of its special pieces in a text, as BERT's own program does. Any other finds only
    the mask, so that a text with blanks can be written; all else is plain characters.

    Attributes:
        files: the contents of the files that it was read from, by the names that transformers gives them.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """Takes the files of one of the forms, and tokenizer_config.json if there is one.

        Raises:
            ValueError: a file is damaged, or describes no tokenizer.
        """
        self.files = dict(files)
        config = _read_config(files.get(TOKENIZER_CONFIG))
        self._settings = {name: config[name] for name in _SETTINGS if isinstance(config.get(name), bool)}
        self._library = _open(self.files, self._settings)
        vocabulary = self._library.get_vocab()
        self.vocab_size = 1 + max(vocabulary.values(), default=-1)
        if not 0 < self.vocab_size < _MOST_PIECES:
            raise ValueError(f"its ids reach {self.vocab_size - 1}, expected 0 to {_MOST_PIECES - 2}")
        self.special_ids: Mapping[str, int] = _find_specials(vocabulary, config)
        ends = (_name(config, "eos_token") or GPT2_END, *_ENDS)
        self.end_id: int | None = next(
            (vocabulary[end] for end in ends if end in vocabulary), self.special_ids.get("sep")
        )
        silent = (self.end_id, *(self.special_ids.get(role) for role in ("cls", "sep", "pad")))
        # The pieces without a text.
        self.unspoken = frozenset(id for id in silent if id is not None)
        if not isinstance(self._library.model, models.WordPiece):
            self._library = _recognize_only(self._library, self.special_ids.get("mask"))
        added = [*self._library.get_added_tokens_decoder().values()]
        self.exact = _is_exact(self._library, vocabulary) and not any(
            token.lstrip or token.rstrip for token in added if not token.special
        )
        # There no piece goes from a character that is not white space across a line break, or across a single space.
        self._may_cut = (self.exact or _is_bert(self._library)) and not any(
            re.search(r"\s", token.content) for token in added
        )
        words = BYTE_WORDS if self.exact else SPACED_WORDS
        self._memory = WordMemory(words, lambda some: [encoding.ids for encoding in self._look_up(some)])

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text."""
        return self.encode_batch([text], threads=1)[0].tolist()

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[np.ndarray]:
        """Returns the ids of each text, int32 [N], found by at most `threads` threads."""
        chunks_of_texts = [self._cut(text) for text in texts]
        groups = [*grouped((chunk for chunks in chunks_of_texts for chunk in chunks), _GROUP_CHARACTERS)]
        workers = min(threads, os.cpu_count() or 1, len(groups))
        if self._may_cut and workers <= WORTH_REMEMBERING:
            found = ([self._memory.encode(chunk) for chunk in group] for group in groups)
        elif workers > 1:
            with ThreadPoolExecutor(workers) as pool:
                found = [*pool.map(self._encode_group, groups)]
        else:
            found = map(self._encode_group, groups)
        encoded = iter([ids for group in found for ids in group])
        return [np.concatenate([next(encoded) for _ in chunks]) for chunks in chunks_of_texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids; an unfinished character becomes U+FFFD.

        The pieces that begin, part, end and fill sequences have no text; a mask and an unknown word show by name.
        """
        spoken = [int(id) for id in ids if id not in self.unspoken]
        return self._library.decode(spoken, skip_special_tokens=False)

    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns whether each piece goes on a word that another has begun, and whether it closes one, bool [V] each.

        In WordPiece the inside of a word begins with "##". Elsewhere the beginning of a word begins with a space, or
        follows a piece that ends with white space.
        """
        pieces = [self._library.id_to_token(id) or "" for id in range(self.vocab_size)]
        if isinstance(self._library.model, models.WordPiece):
            inside = self._library.model.continuing_subword_prefix
            return np.array([piece.startswith(inside) for piece in pieces]), np.zeros(len(pieces), bool)
        continues = np.array([not piece.startswith(_SPACES) for piece in pieces])
        return continues, np.array([piece.endswith(_SPACES) for piece in pieces])

    def piece(self, id: int) -> str | None:
        """Returns the piece of an id as the vocabulary has it, or None if the id has none."""
        return self._library.id_to_token(id)

    def described(self) -> str:
        """Returns the tokenizer as a tokenizer.json has it."""
        return _open(self.files, self._settings).to_str()

    def fingerprint(self) -> str:
        """Returns a hash of the files and settings that decide the ids."""
        parts = [(name, content) for name, content in self.files.items() if name != TOKENIZER_CONFIG]
        content = (sorted(parts), self._settings, sorted(self.special_ids.items()), self.end_id)
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def save(self, directory: epath.PathLike) -> None:
        """Writes the files as they were read into a folder, and the kind of tokenizer."""
        directory = epath.Path(directory)
        (directory / _FOLDER).mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            write_whole(directory / _FOLDER / name, content)
        write_whole(directory / "tokenizer.json", json.dumps({"kind": "huggingface"}) + "\n")

    def _encode_group(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array(encoding.ids, np.int32) for encoding in self._look_up(texts)]

    def _look_up(self, texts: list[str]) -> list[tokenizers.Encoding]:
        return self._library.encode_batch_fast(texts, add_special_tokens=False)

    def _cut(self, text: str) -> list[str]:
        """Cuts a long text where that changes no id: before line breaks that follow other than white space."""
        chunks: list[str] = []
        start = 0
        while self._may_cut and len(text) - start > _CHUNK_CHARACTERS:
            found = _CUT.search(text, start + _CHUNK_CHARACTERS)
            if found is None:
                break
            chunks.append(text[start : found.start()])
            start = found.start()
        return [*chunks, text[start:]]


def load_huggingface(directory: epath.PathLike) -> HuggingFaceTokenizer:
    """Loads what `save` wrote.

    Raises:
        As `open_huggingface`.
    """
    return open_huggingface(epath.Path(directory) / _FOLDER)


# ── Files ────────────────────────────────────────────────────────────────────────────────────────────────────


def _open(files: Mapping[str, bytes], settings: Mapping[str, bool]) -> tokenizers.Tokenizer:
    """Returns the library's tokenizer of one of the forms, which cuts and pads nothing."""
    names = next((form for form in FORMS if set(form) <= files.keys()), None)
    if names is None:
        raise ValueError(f"{', '.join(files)} do not make a tokenizer")
    try:
        if names == (TOKENIZER_JSON,):
            library = tokenizers.Tokenizer.from_str(_text(files[TOKENIZER_JSON]))
        elif len(names) == 2:
            library = _open_bytes(*(files[name] for name in names))
        else:
            library = _open_wordpiece(files[names[0]], settings)
    except (ValueError, RecursionError):
        raise
    # The library has no class of errors of its own.
    except Exception as error:
        raise ValueError(f"{names[0]} describes no tokenizer: {error}"[:300]) from error
    library.no_truncation()
    library.no_padding()
    if isinstance(library.model, models.BPE):
        # With it the ids of a text would be drawn anew each time.
        library.model.dropout = None
    return library


def _open_bytes(vocabulary: bytes, merges: bytes) -> tokenizers.Tokenizer:
    """Returns GPT-2's form of tokenizer: pieces of bytes, in a file of ids and a file of merges."""
    ids = json.loads(_text(vocabulary))
    if not isinstance(ids, dict) or not all(type(id) is int and id >= 0 for id in ids.values()):
        raise ValueError("the file of ids is not an object of pieces and their ids")
    if not set(pre_tokenizers.ByteLevel.alphabet()) <= ids.keys():
        raise ValueError("its pieces are not made of bytes, as GPT-2's are; openai:DIR reads those of GPT-1")
    lines = _text(merges).split("\n")
    pairs = [tuple(line.split(" ")) for line in lines[lines[0].startswith("#version") :] if line]
    if wrong := next((pair for pair in pairs if len(pair) != 2), None):
        raise ValueError(f"the merge {' '.join(wrong)!r:.60} is not two pieces")
    library = tokenizers.Tokenizer(models.BPE(ids, [(pair[0], pair[1]) for pair in pairs]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    known = (GPT2_END, *_ROBERTA_PIECES, *BERT_PIECES)
    library.add_special_tokens([piece for piece in known if piece in ids])
    return library


def _open_wordpiece(vocabulary: bytes, settings: Mapping[str, bool]) -> tokenizers.Tokenizer:
    """Returns BERT's form of tokenizer: a piece a line. By default case and accents are dropped, as in transformers."""
    pieces = _text(vocabulary).rstrip("\n").split("\n")
    ids = {piece: number for number, piece in enumerate(pieces)}
    if UNKNOWN not in ids:
        raise ValueError(f"its vocabulary has no {UNKNOWN}")
    library = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN))
    library.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.add_special_tokens([piece for piece in (*BERT_PIECES, UNKNOWN) if piece in ids])
    return library


def _text(content: bytes) -> str:
    # Editors on Windows may have added a byte-order mark and carriage returns.
    return content.decode("utf-8-sig").replace("\r\n", "\n")


def _read_config(content: bytes | None) -> dict[str, Any]:
    found = {} if content is None else json.loads(_text(content))
    if not isinstance(found, dict):
        raise ValueError(f"{TOKENIZER_CONFIG} is not a JSON object")
    return found


def _name(config: Mapping[str, Any], key: str) -> str | None:
    """Returns the special piece that a config names, as a text or within a record of its own."""
    found = config.get(key)
    found = found.get("content") if isinstance(found, dict) else found
    return found if isinstance(found, str) else None


def _find_specials(vocabulary: Mapping[str, int], config: Mapping[str, Any]) -> dict[str, int]:
    """Returns the ids of the pieces that begin, part, mask and fill sequences, as far as there are any."""
    usual = BERT_PIECES if "[CLS]" in vocabulary else _ROBERTA_PIECES if "<mask>" in vocabulary else ()
    names: dict[str, str] = dict(zip(_ROLES, usual, strict=False))
    for role in _ROLES:
        name = _name(config, f"{role}_token")
        if name is not None and name in vocabulary:
            names[role] = name
    return {role: vocabulary[name] for role, name in names.items() if name in vocabulary}


# ── What it does to a text ───────────────────────────────────────────────────────────────────────────────────


def _recognize_only(library: tokenizers.Tokenizer, mask: int | None) -> tokenizers.Tokenizer:
    """Returns the tokenizer so that of the special pieces a text may only name the mask."""
    if mask is not None:
        described = json.loads(library.to_str())
        for token in described["added_tokens"]:
            token["special"] = token["special"] and token["id"] != mask
        library = tokenizers.Tokenizer.from_str(json.dumps(described))
    library.encode_special_tokens = True
    return library


def _is_exact(library: tokenizers.Tokenizer, vocabulary: Mapping[str, int]) -> bool:
    """Returns whether pieces are bytes that nothing changes, cut as GPT-2 cuts them."""
    cut = library.pre_tokenizer
    return (
        isinstance(library.model, models.BPE)
        and library.normalizer is None
        and isinstance(cut, pre_tokenizers.ByteLevel)
        and cut.use_regex
        and not cut.add_prefix_space
        and isinstance(library.decoder, decoders.ByteLevel)
        and set(pre_tokenizers.ByteLevel.alphabet()) <= vocabulary.keys()
    )


def _is_bert(library: tokenizers.Tokenizer) -> bool:
    return (
        isinstance(library.model, models.WordPiece)
        and isinstance(library.normalizer, normalizers.BertNormalizer)
        and isinstance(library.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
    )
