"""The learning curve of a run as a picture: python -m benchmarks.curve --run=RUN --picture=curve.svg.

The README has that of `tiny`, beside what simpler models make of its held-out text (`benchmarks.held_out`).
"""

import json
from pathlib import Path
from typing import Any

import matplotlib
from absl import flags
from matplotlib.figure import Figure

from gpt1_jax.door import door
from gpt1_jax.errors import UserError

_RUN = flags.DEFINE_string("run", None, "the run directory")
_PICTURE = flags.DEFINE_string("picture", "curve.svg", "the picture")
_BESIDE = flags.DEFINE_list("beside", [], "NAME=BITS of other models, in bits a byte of the held-out text")


def main(_: list[str]) -> None:
    """Draws the losses of training and of the held-out text against the step."""
    if _RUN.value is None:
        raise UserError("--run is missing; name the run directory to draw.")
    log = Path(_RUN.value) / "metrics.jsonl"
    if not log.exists():
        raise UserError(f"--run={_RUN.value} has no metrics.jsonl; name a pre-trained run.")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    beside = dict(pair.split("=") for pair in _BESIDE.value)
    # Text stays text, and neither the day nor the machine is written, so the same log gives the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpt1_jax"}):
        figure = draw(entries, {name: float(bits) for name, bits in beside.items()})
        figure.savefig(_PICTURE.value, metadata={"Date": None} if _PICTURE.value.endswith(".svg") else None)


def draw(entries: list[dict[str, Any]], beside: dict[str, float]) -> Figure:
    """Draws training and held-out loss in bits a byte, and a dashed line for each model beside them.

    Args:
        entries: the lines of metrics.jsonl, whose evaluations say how many nats a token are a bit a byte.
        beside: the bits a byte of other models, by name.
    """
    train = [entry for entry in entries if entry["kind"] == "train"]
    held_out = [entry for entry in entries if entry["kind"] == "eval"]
    scale = held_out[-1]["bits_per_byte"] / held_out[-1]["loss"]
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes: Any = figure.subplots()
    axes.plot(
        [entry["step"] for entry in train], [entry["loss"] * scale for entry in train], label="training"
    )
    bits = [entry["bits_per_byte"] for entry in held_out]
    axes.plot([entry["step"] for entry in held_out], bits, "o-", label="held out")
    for name, value in beside.items():
        axes.axhline(value, linestyle="--", linewidth=1, color="gray")
        axes.annotate(name, (train[0]["step"], value), ha="left", va="bottom", color="gray", fontsize=9)
    axes.set(xlabel="step", ylabel="bits a byte")
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    door(main)
