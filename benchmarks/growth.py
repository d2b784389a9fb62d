"""What grows with the size of a text, of its documents, of a run and of a model: python -m benchmarks.growth.

It measures how long a training takes to open a text, to draw a batch, to go on with a long log, to draw its page, to
save a checkpoint and to restore it. Texts are holes of a disk, which read as the token 0, so a terabyte takes no room.
The slope of a straight line through the logarithms says how the time grows: 0 is not at all, and 1 is linear.
"""

import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath
from matplotlib.figure import Figure

from benchmarks.settings import settings
from benchmarks.timing import conclude, exponent, measure
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.batches import PretrainingBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.documents import Documents
from gpt1_jax.data.manifest import FORMAT_VERSION, fingerprint, write_manifest
from gpt1_jax.data.tokenizers.library_training import train_byte_bpe
from gpt1_jax.data.visits import documents_in
from gpt1_jax.door import door
from gpt1_jax.overrides import to_dict
from gpt1_jax.pages.page import write_page
from gpt1_jax.run import Run
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.log import MetricsLog

SIZES = {
    "tokens": (10**6, 10**8, 10**10, 5 * 10**11),
    "documents": (10**3, 10**4, 10**5, 10**6),
    "steps": (10**2, 10**3, 10**4, 10**5),
    "parameters": (10**5, 10**6, 10**7, 10**8),
}

_OUTPUT = flags.DEFINE_string("output", "growth.png", "the picture")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds of timing", 1)
_SIZES = flags.DEFINE_list("sizes", list(SIZES), f"of {', '.join(SIZES)}")
_LARGEST = flags.DEFINE_integer("largest", 10**12, "leaves out larger sizes", 1)

# The paper's batch.
_ROWS, _LENGTH = 64, 512
# Tokens of a document.
_DOCUMENT = 50

# What is timed, by its name.
Acts = dict[str, Callable[[], Any]]


def main(_: list[str]) -> None:
    """Prints a line for each size, value and act, then JSON, and draws the picture."""
    points = [point for size in _SIZES.value for point in _sweep(size)]
    grown = {}
    for size, act in dict.fromkeys((point["size"], point["act"]) for point in points):
        mine = [point for point in points if (point["size"], point["act"]) == (size, act)]
        if len(mine) > 1:
            grown[f"{act}, by {size}"] = exponent(mine, "seconds")
    for name, found in grown.items():
        print(f"{name:40} grows with the power {found:.2f}")
    draw(points).savefig(_OUTPUT.value, dpi=150)
    conclude(points=points, exponents=grown)


def _sweep(size: str) -> Iterator[dict[str, Any]]:
    acts_of = {"tokens": _text, "documents": _documents, "steps": _run, "parameters": _model}[size]
    for value in SIZES[size]:
        if value > _LARGEST.value:
            continue
        with tempfile.TemporaryDirectory() as place, acts_of(Path(place), value) as acts:
            for row in measure(acts, _ROUNDS.value):
                print(f"{size:10} {value:15,}  {row.side:24} {row.seconds.median:.5f} s", flush=True)
                yield {"size": size, "value": value, "act": row.side, "seconds": row.seconds.median}


# ── Each size ────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _text(place: Path, tokens: int) -> Iterator[Acts]:
    """Opens a text of so many tokens, and draws batches of it at steps all over its first epoch."""
    tokenizer = train_byte_bpe(iter(["the fox and the dog"] * 9), 270)
    tokenizer.save(place / "tokenizer")
    splits = {}
    for name, count in (("train", tokens), ("validation", _LENGTH)):
        with (place / f"{name}-00000.bin").open("wb") as file:
            file.truncate(2 * count)
        # Larger texts are not read for their checksums.
        crc32 = zlib.crc32(bytes(2 * count)) if count < 10**9 else 0
        shards = [{"file": f"{name}-00000.bin", "bytes": 2 * count, "crc32": crc32}]
        splits[name] = {"tokens": count, "documents": 1, "bytes": count, "shards": shards}
    about = {"format": FORMAT_VERSION, "dtype": "uint16", "vocab_size": 270}
    write_manifest(place, about | {"fingerprint": fingerprint(tokenizer, splits), "splits": splits})
    batches = _batches(corpora.load(place).train, Documents())
    yield {"open the text": lambda: corpora.load(place), "draw a batch": _drawing(batches)}


@contextmanager
def _documents(place: Path, count: int) -> Iterator[Acts]:
    """Draws batches that keep so many documents apart, and finds those of the windows of a step."""
    tokens = np.ones(count * _DOCUMENT + 1, np.uint16)
    tokens[::_DOCUMENT] = 0
    split = Split((tokens,), count, len(tokens))
    batches = _batches(split, Documents(end=0, apart=True, restart=True))
    windows = np.array([[0, 1], [_LENGTH, 2 * _LENGTH]]) + len(tokens) - 2 * _LENGTH
    yield {
        "draw a batch": _drawing(batches),
        "find a step's documents": lambda: documents_in(split, 0, windows),
    }


@contextmanager
def _run(place: Path, steps: int) -> Iterator[Acts]:
    """Opens the log of a run of so many steps, all of which are logged, and draws its page."""
    (place / "config.json").write_text(json.dumps(to_dict(settings("tiny", 8))))
    values = {"kind": "train", "loss": 3.25, "perplexity": 25.79, "learning_rate": 1e-4, "grad_norm": 0.5}
    values |= {"tokens_per_second": 12345.6, "seconds_per_step": 0.1}
    lines = [json.dumps({"step": step, **values}) for step in range(1, steps + 1)]
    (place / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    run = Run(str(place))
    yield {
        "go on with the log": lambda: MetricsLog(epath.Path(place), steps, 2 * steps).close(),
        "draw the page": lambda: write_page(run),
    }


@contextmanager
def _model(place: Path, parameters: int) -> Iterator[Acts]:
    """Saves and restores a checkpoint of so many parameters, in layers, with two moments of each."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    layers = {name: jnp.ones((10, parameters // 10)) for name in ("params", "first", "second")}
    state = {"step": jnp.zeros((), jnp.int32), **layers}
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)
    checkpoints = Checkpoints(epath.Path(place) / "checkpoints", keep=2)
    steps = iter(range(1, 10**6))

    def save() -> None:
        checkpoints.save(next(steps), state)
        checkpoints.wait()

    try:
        yield {
            "save a checkpoint": save,
            "restore it": lambda: jax.block_until_ready(checkpoints.restore(checkpoints.steps()[-1], like)),
        }
    finally:
        checkpoints.close()


def _batches(split: Split, documents: Documents) -> PretrainingBatches:
    return PretrainingBatches(split, seed=0, batch_size=_ROWS, context_length=_LENGTH, documents=documents)


def _drawing(batches: PretrainingBatches) -> Callable[[], Any]:
    """Returns a function that draws the batch of another step each time."""
    last = max(batches.examples_per_epoch // _ROWS, 1)
    steps = iter(np.random.default_rng(0).integers(0, last, 10**4).tolist())
    return lambda: batches.rows(next(steps), 0, _ROWS)


# ── Picture ──────────────────────────────────────────────────────────────────────────────────────────────────


def draw(points: list[dict[str, Any]]) -> Figure:
    """Draws the seconds of each act against each size, on logarithmic axes."""
    sizes = list(dict.fromkeys(point["size"] for point in points))
    figure = Figure(figsize=(3.4 * len(sizes), 3.2), layout="constrained")
    axes: Any = figure.subplots(1, len(sizes), squeeze=False, sharey=True)
    for axis, size in zip(axes[0], sizes, strict=True):
        mine = [point for point in points if point["size"] == size]
        for act in dict.fromkeys(point["act"] for point in mine):
            own = [point for point in mine if point["act"] == act]
            axis.loglog(
                [point["value"] for point in own], [point["seconds"] for point in own], "o-", label=act
            )
        axis.set(xlabel=size, ylabel="seconds" if axis is axes[0, 0] else "")
        axis.legend(fontsize="small")
    return figure


if __name__ == "__main__":
    door(main)
