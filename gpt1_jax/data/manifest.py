"""The manifest of a corpus says what it was made from and what it holds; a seal shows any damage."""

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
    """Writes a manifest with a seal, which is a hash of the rest."""
    sealed = manifest | {"seal": _seal(manifest)}
    write_whole(epath.Path(directory) / _FILE, json.dumps(sealed, indent=1) + "\n")


def read_manifest(directory: epath.PathLike) -> dict[str, Any]:
    """Reads a manifest, with a seal or, from an older version, without one.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: the file is damaged or has another format.
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
        raise ValueError(f"{_FILE} is damaged: it does not match its seal")
    return manifest


def check_manifest(manifest: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Checks a manifest against the tokenizer beside it and, if an older version left it without a seal, in itself.

    Raises:
        ValueError: the manifest is inconsistent, or does not say how much text the tokenizer loses.
    """
    splits = manifest["splits"]
    if manifest["fingerprint"] != fingerprint(tokenizer, splits):
        raise ValueError(f"the tokenizer or {_FILE} is damaged: they do not match the fingerprint")
    if "seal" in manifest:
        return
    if manifest["dtype"] != token_type(tokenizer) or manifest["vocab_size"] != tokenizer.vocab_size:
        raise ValueError("its tokens do not belong to its tokenizer")
    if not tokenizer.exact:
        raise ValueError("an older version made it without counting how much text its tokenizer loses")
    size = int(manifest["dtype"][-1])
    if any(
        split["tokens"] * size != sum(shard["bytes"] for shard in split["shards"])
        for split in splits.values()
    ):
        raise ValueError(f"{_FILE} is damaged: its count of tokens does not match its shards")


def fingerprint(tokenizer: Tokenizer, splits: dict[str, Any]) -> str:
    """Returns a hash of the tokens and the tokenizer, the same on any machine."""
    content = (tokenizer.fingerprint(), splits["train"]["shards"], splits["validation"]["shards"])
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _seal(manifest: dict[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name != "seal"}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
