"""Files of other programs with a bit, a byte or a field that is wrong: a sentence, or the model that they describe."""

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interop_support import bpe, make_run, sentencepiece
from safetensors.numpy import load_file

from gpt1_jax.data.tokenizers.gpt1 import OpenAITokenizer
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.interop.conversion import convert
from gpt1_jax.interop.families import GPT1

pytestmark = pytest.mark.usefixtures("quick_compilation")

ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 2**31, 10**400, -(10**400), 0.5, 1e308, float("nan"), float("inf")),
    *("", "1", "\ud800", "../x", "/dev/zero", "\0", "x" * 5000, [], [[]], {}, {"a": {}}, [1] * 1000),
]
ODD_TEXTS = [
    *(b"", b"{", b"null", b"[]", b"{}", b"1e400", b"\xff\xfe", b"\xef\xbb\xbf{}", b"NaN", b'"x"', b"\0" * 64),
    *(b"[" * 100_000, b'{"a":' * 100_000, b'{"n_embd":' + b"9" * 5000 + b"}", b'{"a":1,"a":2}'),
]
# A second change meets files that the first one left no sense in.
_CHANGED_BEFORE = (OSError, ValueError, LookupError, TypeError, RecursionError)
Change = Callable[[random.Random, Path], None]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound directory of every kind, by its name; it begins with the format."""
    directory = tmp_path_factory.mktemp("sources")
    tokenizers: dict[str, Tokenizer] = {"bpe": bpe(), "sentencepiece": sentencepiece()}
    for name, tokenizer in tokenizers.items():
        make_run(directory / f"gpt1_jax-{name}", tokenizer)
        for target in ("openai", "huggingface"):
            convert(
                "gpt1_jax", target, str(directory / f"gpt1_jax-{name}"), str(directory / f"{target}-{name}")
            )
    parts = shutil.copytree(directory / "huggingface-bpe", directory / "huggingface-parts")
    (parts / "model.safetensors").rename(parts / "a.safetensors")
    places = dict.fromkeys(load_file(parts / "a.safetensors"), "a.safetensors")
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (parts / "added_tokens.json").write_text("{}")
    return {path.name: path for path in directory.iterdir() if path.is_dir()}


# ── What may happen to a file ────────────────────────────────────────────────────────────────────────────────


def any_file(generator: random.Random, directory: Path) -> Path:
    return generator.choice(sorted(path for path in directory.rglob("*") if path.is_file()))


def flip_a_bit_of_the_header(generator: random.Random, directory: Path) -> None:
    path = any_file(generator, directory)
    content = bytearray(path.read_bytes())
    if content:
        content[generator.randrange(min(len(content), 3000))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def replace_bytes(generator: random.Random, directory: Path) -> None:
    path = any_file(generator, directory)
    content = bytearray(path.read_bytes())
    for _ in range(generator.randint(1, 8)):
        if content:
            content[generator.randrange(min(len(content), 3000))] = generator.choice(b'\0\xff"{}[],:0919aef ')
    path.write_bytes(content)


def cut_or_append(generator: random.Random, directory: Path) -> None:
    path = any_file(generator, directory)
    content = path.read_bytes()
    path.write_bytes(
        content[: generator.randint(0, len(content))]
        if generator.random() < 0.7
        else content + generator.randbytes(generator.randint(1, 200))
    )


def remove_or_swap(generator: random.Random, directory: Path) -> None:
    path, other = any_file(generator, directory), any_file(generator, directory)
    if generator.random() < 0.5:
        path.unlink()
    else:
        path.write_bytes(other.read_bytes())


def write_something_else(generator: random.Random, directory: Path) -> None:
    any_file(generator, directory).write_bytes(generator.choice(ODD_TEXTS))


def replace_by_a_place(generator: random.Random, directory: Path) -> None:
    """A directory, a link that leads nowhere or in a circle, or what never ends."""
    path = any_file(generator, directory)
    path.unlink()
    target = generator.choice(["absent", path.name, "/dev/zero", "/dev/null", "."])
    if generator.random() < 0.3:
        path.mkdir()
    else:
        path.symlink_to(target)


def change_a_field(generator: random.Random, directory: Path) -> None:
    """The file is JSON, or the JSON header of a safetensors file."""
    # What a change before made a link to /dev/zero has no end.
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    path = generator.choice([path for path in files if path.suffix in (".json", ".safetensors")])
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little") if path.suffix == ".safetensors" else 0
    values = json.loads(content[8 : 8 + length] if length else content)
    place = generator.choice(list(places_of(values)))
    part = values
    for key in place[:-1]:
        part = part[key]
    if not place:
        values = generator.choice(ODD_VALUES)
    elif generator.random() < 0.2:
        del part[place[-1]]
    else:
        part[place[-1]] = copy.deepcopy(generator.choice([*ODD_VALUES, values]))
    header = json.dumps(values).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :] if length else header)


def places_of(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(values, dict | list):
        keys = values if isinstance(values, dict) else range(len(values))
        for key in keys:
            yield from places_of(values[key], (*path, key))


CHANGES: list[Change] = [
    *(flip_a_bit_of_the_header, replace_bytes, cut_or_append, remove_or_swap, write_something_else),
    *(replace_by_a_place, change_a_field, change_a_field, change_a_field),
]


# ── What must come of it ─────────────────────────────────────────────────────────────────────────────────────


def numbers_of(directory: Path) -> np.ndarray:
    """All weights in the published order, read by other means than the package's."""
    if (directory / "params_0.npy").exists():
        return np.concatenate([np.load(directory / f"params_{i}.npy") for i in range(10)])
    whole = directory / "model.safetensors"
    tensors = load_file(whole if whole.exists() else directory / "a.safetensors")
    named = {name.removeprefix("transformer."): array for name, array in tensors.items()}
    order = sorted(named, key=published_place)
    return np.concatenate([named[name].astype(np.float32).ravel() for name in order])


def published_place(name: str) -> tuple[int, int]:
    outer, block = ([weight.name for weight in table] for table in (GPT1.outer, GPT1.block))
    if not name.startswith("h."):
        return -1, outer.index(name)
    layer, _, rest = name.removeprefix("h.").partition(".")
    return int(layer), block.index(f"h.{{}}.{rest}")


def check(generator: random.Random, sources: dict[str, Path], scratch: Path) -> bool:
    """Damages a copy and converts it; returns whether that was possible."""
    name = generator.choice([name for name in sorted(sources) if not name.startswith("gpt1_jax")])
    source, target = scratch / "in", scratch / "out"
    for path in (source, target):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(sources[name], source)
    changes = generator.choices(CHANGES, k=generator.choice([1, 1, 1, 2]))
    for change in changes:
        try:
            change(generator, source)
        except _CHANGED_BEFORE:
            return False
    told = f"{name}: {[change.__name__ for change in changes]}"
    form = name.partition("-")[0]
    try:
        convert(form, "openai", str(source), str(target), num_heads=4 if form == "openai" else None)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 900, told
        assert not target.exists() and sorted(path.name for path in scratch.iterdir()) == ["in"], told
        return False
    assert np.array_equal(numbers_of(target), numbers_of(source)), told
    return True


def hunt(sources: dict[str, Path], scratch: Path, seed: int, count: int) -> int:
    """How many damaged directories were converted all the same."""
    converted = 0
    for number in range(count):
        generator = random.Random(f"{seed} {number}")
        try:
            converted += check(generator, sources, scratch)
        except BaseException as error:
            error.add_note(f"seed {seed}, number {number}")
            raise
    return converted


def test_damaged_files_end_in_a_sentence_or_in_their_model(sources: dict[str, Path], tmp_path: Path) -> None:
    assert 0 < hunt(sources, tmp_path, seed=0, count=250) < 125


@pytest.mark.endurance
@pytest.mark.parametrize("seed", range(1, 4))
def test_many_damaged_files(seed: int, sources: dict[str, Path], tmp_path: Path) -> None:
    hunt(sources, tmp_path, seed, count=5000)


def test_a_vocabulary_that_is_read_has_a_text_for_each_id(sources: dict[str, Path], tmp_path: Path) -> None:
    """Damaged vocabularies are refused, or every id still decodes."""
    for number in range(150):
        generator = random.Random(number)
        content = {"encoder": bytearray(bpe().encoder), "merges": bytearray(bpe().merges)}
        part = content[generator.choice(["encoder", "merges"])]
        part[generator.randrange(len(part))] = generator.choice(b'\0\xff"{}[],:0919aef \n')
        try:
            tokenizer = OpenAITokenizer(bytes(content["encoder"]), bytes(content["merges"]))
        except ValueError:
            continue
        assert isinstance(tokenizer.decode(range(tokenizer.vocab_size)), str)
