"""Both pictures of the paper's figure 2."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.published import Cell
from benchmarks.seeds import Score


def draw_transfers(curves: Mapping[Cell, Mapping[int, Score]], path: Path) -> None:
    """Draws the score against the number of transferred blocks, with its interval (left)."""
    figure, axes = _axes()
    for cell, curve in curves.items():
        blocks = sorted(curve)
        lines = axes.plot(blocks, [curve[at].median for at in blocks], marker="o", label=cell.name)
        low, high = zip(*(curve[at].interval for at in blocks), strict=True)
        axes.fill_between(blocks, low, high, color=lines[0].get_color(), alpha=0.2)
    axes.set(xlabel="blocks transferred from pre-training", ylabel="accuracy · 100")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    figure.savefig(path)


def draw_zero_shot(curves: Mapping[str, Mapping[Cell, Mapping[int, float]]], path: Path) -> None:
    """Draws the normalized scores against the updates of pre-training, a style of line for each run (right)."""
    figure, axes = _axes()
    for style, (name, curve) in zip(("-", "--"), curves.items(), strict=False):
        for number, (cell, values) in enumerate(curve.items()):
            steps = sorted(values)
            heights = [values[step] for step in steps]
            axes.plot(steps, heights, style, marker=".", color=f"C{number}", label=f"{cell.name}, {name}")
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set(xlabel="updates of pre-training", ylabel="score: 0 is chance, 1 the best single model")
    axes.legend()
    figure.savefig(path)


def _axes() -> tuple[Figure, Any]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    return figure, figure.subplots()
