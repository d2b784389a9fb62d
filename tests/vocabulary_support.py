"""GPT-2's and BERT's published vocabularies, unpacked."""

import json
import lzma
from pathlib import Path
from typing import Any

PACKED = Path(__file__).parent / "vocabularies"


def unpack(name: str, directory: Path) -> Path:
    """Writes a vocabulary file into a directory, which is made, and returns its path."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_bytes(lzma.decompress((PACKED / f"{name}.xz").read_bytes()))
    return path


def gpt2(directory: Path) -> Path:
    """Writes GPT-2's vocabulary under OpenAI's names and returns its directory."""
    unpack("encoder.json", directory)
    return unpack("vocab.bpe", directory).parent


def bert(directory: Path) -> Path:
    """Writes the vocabulary of bert-base-uncased and returns its directory."""
    return unpack("vocab.txt", directory).parent


def golden() -> list[dict[str, Any]]:
    """Texts with the ids of both vocabularies."""
    return [
        json.loads(line) for line in lzma.decompress((PACKED / "golden.jsonl.xz").read_bytes()).splitlines()
    ]
