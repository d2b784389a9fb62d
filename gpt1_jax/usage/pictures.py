"""Draws curves of measurements as PNG files."""

from collections.abc import Sequence
from typing import Any

from etils import epath
from matplotlib.figure import Figure

NOT_DRAWN = ("step", "examples")


def draw_scores(path: epath.Path, title: str, found: Sequence[dict[str, float]]) -> None:
    """Draws each metric against the pre-training step.

    Args:
        path: the PNG to write.
        title: the title above the picture.
        found: {"step", metric: value} for each checkpoint.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.subplots()
    steps = [entry["step"] for entry in found]
    for name in found[0]:
        if not name.startswith(NOT_DRAWN):
            axes.plot(steps, [entry[name] for entry in found], marker="o", label=name)
    axes.set(title=title, xlabel="pre-training step", ylabel="score")
    axes.legend()
    with path.open("wb") as file:
        figure.savefig(file)
