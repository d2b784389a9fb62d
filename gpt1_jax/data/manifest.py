"""The manifest of a corpus: what it was made from and what it holds, sealed, so that damage is noticed."""

import hashlib
import json
from typing import Any

from etils import epath

from gpt1_jax.data.shards import token_type
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.disk.whole_files import write_whole

FORMAT_VERSION = 1
_FILE = "manifest.json"


def write_manifest(directory: epath.PathLike, manifest: dict[str, Any]) -> None:
    """Writes a manifest with its seal, a hash of the rest."""
    sealed = manifest | {"seal": _seal(manifest)}
    write_whole(epath.Path(directory) / _FILE, json.dumps(sealed, indent=1) + "\n")


def read_manifest(directory: epath.PathLike) -> dict[str, Any]:
    """Reads a manifest.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: it is damaged, or of another format. One of earlier days has no seal and is no error.
    """
    try:
        manifest = json.loads((epath.Path(directory) / _FILE).read_bytes())
    except RecursionError:
        manifest = None
    if not isinstance(manifest, dict):
        raise ValueError(f"{_FILE} is damaged")
    if manifest.get("format") != FORMAT_VERSION:
        raise ValueError(f"its format is {manifest.get('format')!s:.40}, expected {FORMAT_VERSION}")
    if "seal" in manifest and manifest["seal"] != _seal(manifest):
        raise ValueError(f"{_FILE} is damaged: it does not fit its seal")
    return manifest


def check_manifest(manifest: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Whether a manifest fits the tokenizer beside it and, without a seal, as in earlier days, itself.

    Raises:
        ValueError: it does not, or it does not know whether the tokenizer loses text.
    """
    splits = manifest["splits"]
    if manifest["fingerprint"] != fingerprint(tokenizer, splits):
        raise ValueError(f"the tokenizer or {_FILE} is damaged: they do not fit the fingerprint")
    if "seal" in manifest:
        return
    if manifest["dtype"] != token_type(tokenizer) or manifest["vocab_size"] != tokenizer.vocab_size:
        raise ValueError("its tokens are not of its tokenizer")
    if not tokenizer.exact:
        raise ValueError("how much of the text its tokenizer loses was not counted when it was made")
    size = int(manifest["dtype"][-1])
    if any(
        split["tokens"] * size != sum(shard["bytes"] for shard in split["shards"])
        for split in splits.values()
    ):
        raise ValueError(f"{_FILE} is damaged: its tokens are not as many as its shards have")


def fingerprint(tokenizer: Tokenizer, splits: dict[str, Any]) -> str:
    """A hash of the tokens and the tokenizer, the same on any machine."""
    content = (tokenizer.fingerprint(), splits["train"]["shards"], splits["validation"]["shards"])
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _seal(manifest: dict[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name != "seal"}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
