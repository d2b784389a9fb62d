"""How time and memory of a training step grow: python -m benchmarks.scaling --output=scaling.png.

It doubles one size at a time, beginning with a small model. The slope of a straight line through the logarithms says
how the cost grows: 1 is linear. Attention grows with the square of the context, the rest with its tokens.
"""

import dataclasses
from typing import Any

from absl import flags
from matplotlib.figure import Figure

from benchmarks.ours import Training
from benchmarks.settings import batches, settings
from benchmarks.timing import conclude, exponent, measure
from gpt1_jax.config import Config
from gpt1_jax.door import door
from gpt1_jax.huge_pages import use_huge_pages
from gpt1_jax.training.speed import training_flops_per_token

SIZES = {
    "batch": (4, 8, 16, 32),
    "context": (64, 128, 256, 512),
    "layers": (2, 4, 8, 16),
    "width": (128, 256, 512, 1024),
}

_OUTPUT = flags.DEFINE_string("output", "scaling.png", "the picture")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "rounds of timing", 1)
_SIZES = flags.DEFINE_list("sizes", list(SIZES), f"of {', '.join(SIZES)}")


def main(_: list[str]) -> None:
    """Prints a line for each size and value, then JSON, and draws the picture."""
    points = [point for size in _SIZES.value for point in sweep(size)]
    for point in points:
        print(
            f"{point['size']:8} {point['value']:5}  {point['seconds']:.3f} s  {point['bytes'] / 1e9:.2f} GB  "
            f"{point['gflops']:.1f} GFLOP/s"
        )
    grown = {
        f"{size} {cost}": exponent([point for point in points if point["size"] == size], cost)
        for size in _SIZES.value
        for cost in ("seconds", "bytes", "flops")
    }
    for name, found in grown.items():
        print(f"{name:16} grow with the power {found:.2f}")
    draw(points).savefig(_OUTPUT.value, dpi=150)
    conclude(points=points, exponents=grown)


def sweep(size: str) -> list[dict[str, Any]]:
    """Measures the values of a size, all of them in each round."""
    configs = {value: change(settings("tiny", 8), size, value) for value in SIZES[size]}
    trainers = {value: Training(config) for value, config in configs.items()}
    sides = {}
    for value, trainer in trainers.items():
        ids, targets = next(batches(configs[value]))
        sides[str(value)] = lambda trainer=trainer, ids=ids, targets=targets: trainer(ids, targets)
    points = []
    for value, row in zip(configs, measure(sides, _ROUNDS.value), strict=True):
        config = configs[value]
        tokens = config.train.batch_size * config.model.context_length
        flops = training_flops_per_token(config.model, config.data.vocab_size) * tokens
        points.append(
            {
                "size": size,
                "value": value,
                "seconds": row.seconds.median,
                "bytes": trainers[value].bytes,
                "flops": flops,
                "gflops": flops / row.seconds.median / 1e9,
            }
        )
    return points


def change(config: Config, size: str, value: int) -> Config:
    """Returns the config with another value of one size; heads are 64 wide, hidden units four times the width."""
    if size == "batch":
        return dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=value))
    changes = {
        "context": {"context_length": value},
        "layers": {"num_layers": value},
        "width": {"d_model": value, "d_ff": 4 * value, "num_heads": value // 64},
    }
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **changes[size]))


def draw(points: list[dict[str, Any]]) -> Figure:
    """Draws time and memory against each size, on logarithmic axes, beside a line of slope 1."""
    sizes = list(dict.fromkeys(point["size"] for point in points))
    figure = Figure(figsize=(3.2 * len(sizes), 5.5), layout="constrained")
    axes: Any = figure.subplots(2, len(sizes), squeeze=False)
    for column, size in enumerate(sizes):
        mine = [point for point in points if point["size"] == size]
        values = [point["value"] for point in mine]
        for row, (cost, label) in enumerate((("seconds", "seconds a step"), ("bytes", "bytes"))):
            axis, costs = axes[row, column], [point[cost] for point in mine]
            axis.loglog(values, costs, "o-", base=2)
            axis.loglog(
                values, [costs[-1] * value / values[-1] for value in values], ":", color="gray", base=2
            )
            axis.set(xlabel=size, ylabel=label if column == 0 else "", xticks=values, xticklabels=values)
    return figure


if __name__ == "__main__":
    use_huge_pages()
    door(main)
