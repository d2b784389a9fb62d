"""Tables 2 to 5 of the paper and the numbers of its figure 2, ours beside the paper's, as a page of Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.comparing import compare_runs
from benchmarks.published import (
    ABLATED,
    ABLATIONS,
    DIAGNOSTICS,
    GLUE,
    GLUE_SCORE,
    TABLES,
    TRANSFER_GAIN,
    TRANSFERRED,
    WITHOUT_WNLI,
    WITHOUT_WNLI_SCORE,
    WNLI,
    ZERO_SHOT,
    Cell,
)
from benchmarks.seeds import Score, mean
from benchmarks.variants import TRANSFER

# The score of a variant in a cell, or None if it was not fine-tuned, or is only partly.
Scores = Callable[[Cell, str], Score | None]
# Of each run of zero-shot scores, by its name, and each cell: normalized scores by the step of pre-training.
Curves = Mapping[str, Mapping[Cell, Mapping[int, float]]]

_INTRODUCTION = """\
# The paper's tables 2 to 5 and figure 2

Ours are medians over seeds, in hundredths, with the middle 95 % of what resampled seeds and examples give. The paper's
are of test sets. Ours are of validation sets where the labels of a test set are not public. "not resolved" stands
before a difference that these seeds and examples cannot tell from none, and before all differences of one seed.
"""
_HEAD = "|  | metric | ours | of | seeds | paper | ours − paper |"


def make_page(output: Path, scores: Scores, missing: Mapping[str, str], curves: Curves) -> str:
    """Returns the page.

    Args:
        output: the directory of the fine-tunings, OUTPUT/TASK/VARIANT/SEED.
        scores: what they score.
        missing: the tasks without data, and why.
        curves: what the right of figure 2 shows.
    """
    left_out = [f"- `{task}` is left out: {why}" for task, why in missing.items()]
    parts = [_INTRODUCTION, *(["\n".join((*left_out, ""))] if left_out else [])]
    for title, cells in TABLES.items():
        rows = [_row(cell.name, cell.metric, scores(cell, "full"), paper) for cell, paper in cells.items()]
        parts.append(_table(title, _HEAD, rows))
    parts.append(_table("GLUE", _HEAD, _glue(scores)))
    parts.append(_table("Table 5: what is left out", _ablation_head(), _ablations(scores)))
    parts.append(_table("Table 5: differences from full", _ablation_head(), _differences(output, scores)))
    parts.append(_table("Figure 2, left: blocks transferred", *_transfers(scores)))
    parts.append(
        _table("Figure 2, right: zero-shot, 0 is chance and 1 the best single model", *_zero_shot(curves))
    )
    return "\n".join(parts)


def _table(title: str, head: str, rows: Iterable[str]) -> str:
    found = list(rows)
    body = [head, "|---" * (head.count("|") - 1) + "|", *found] if found else ["Nothing yet."]
    return "\n".join((f"## {title}", "", *body, ""))


def _row(name: str, metric: str, ours: Score | None, paper: float | None) -> str:
    """Returns a row of tables 2 to 4 and of GLUE's."""
    told = ("", "", "") if ours is None else (str(ours), ours.part, str(ours.seeds))
    beside = "" if ours is None or paper is None else ours.beside(paper)
    return "| " + " | ".join((name, metric, *told, "" if paper is None else f"{paper:.1f}", beside)) + " |"


def _glue(scores: Scores) -> list[str]:
    """Returns the rows of what stands in no table of the paper, and of both means."""
    rows = [_row(cell.name, cell.metric, scores(cell, "full"), None) for cell in (WNLI, DIAGNOSTICS)]
    means = (("with WNLI", GLUE, GLUE_SCORE), ("without WNLI", WITHOUT_WNLI, WITHOUT_WNLI_SCORE))
    for name, groups, paper in means:
        cells = [cell for group in groups for cell in group]
        found = {cell: one for cell in cells if (one := scores(cell, "full")) is not None}
        if lacking := dict.fromkeys(cell.name for cell in cells if cell not in found):
            rows.append(f"| mean {name} |  | lacks {', '.join(lacking)} |  |  | {paper:.1f} |  |")
        else:
            whole = mean([mean([found[cell] for cell in group]) for group in groups])
            rows.append(_row(f"mean {name}", "GLUE's" if groups is GLUE else "one a task", whole, paper))
    return rows


def _ablation_head() -> str:
    return "|  | " + " | ".join(f"{cell.name} ({cell.metric})" for cell in ABLATED) + " | mean |"


def _ablations(scores: Scores) -> list[str]:
    """Returns two rows for each variant: ours, and the paper's."""
    rows = []
    for variant, paper in ABLATIONS.items():
        found = [scores(cell, variant) for cell in ABLATED]
        whole = [one for one in found if one is not None]
        average = str(mean(whole)) if len(whole) == len(ABLATED) else ""
        cells = ["" if one is None else str(one) for one in found]
        rows.append(f"| {variant}, ours | " + " | ".join((*cells, average)) + " |")
        rows.append(f"| {variant}, the paper's | " + " | ".join(f"{value:.1f}" for value in paper) + " |")
    return rows


def _differences(output: Path, scores: Scores) -> list[str]:
    """Returns two rows for each variant but full: by how much ours changes, on the same examples, and the paper's."""
    rows, (_, *others) = [], ABLATIONS
    for variant in others:
        cells = []
        for cell in ABLATED:
            place = output / cell.task
            there = scores(cell, variant) is not None and scores(cell, "full") is not None
            found = compare_runs(place / "full", place / variant) if there else None
            cells.append("" if found is None else str(found))
        paper = (one - full for one, full in zip(ABLATIONS[variant], ABLATIONS["full"], strict=True))
        rows.append(f"| {variant}, ours | " + " | ".join((*cells, "")) + " |")
        rows.append(f"| {variant}, the paper's | " + " | ".join(f"{value:+.1f}" for value in paper) + " |")
    return rows


def transfer_curves(scores: Scores) -> dict[Cell, dict[int, Score]]:
    """Returns what the left of figure 2 shows: the scores by the number of transferred blocks."""
    curves = {}
    for cell in TRANSFERRED:
        curve, blocks = {}, 0
        while (found := scores(cell, f"{TRANSFER}{blocks}")) is not None:
            curve[blocks] = found
            blocks += 1
        if curve:
            curves[cell] = curve
    return curves


def _transfers(scores: Scores) -> tuple[str, list[str]]:
    curves = transfer_curves(scores)
    most = max(map(len, curves.values()), default=0)
    rows = []
    for cell, curve in curves.items():
        told = [str(curve[blocks]) if blocks in curve else "" for blocks in range(most)]
        gain = _gain(curve[max(curve)], curve[0])
        rows.append(
            "| " + " | ".join((cell.name, *told, gain, TRANSFER_GAIN if cell.task == "mnli" else "")) + " |"
        )
    head = "|  | embeddings only | " + "".join(f"{blocks} | " for blocks in range(1, most)) + "gain | paper |"
    return head, rows


def _gain(last: Score, first: Score) -> str:
    change = Score(
        last.median - first.median, last.draws - first.draws, min(last.seeds, first.seeds), last.part
    )
    return f"{change.beside(0)} ({change.interval[0]:+.1f} to {change.interval[1]:+.1f})"


def _zero_shot(curves: Curves) -> tuple[str, list[str]]:
    rows = [
        f"| {name} | {step:,} | "
        + " | ".join(_normalized(curve.get(cell, {}).get(step)) for cell in ZERO_SHOT)
        + " |"
        for name, curve in curves.items()
        for step in sorted({step for values in curve.values() for step in values})
    ]
    return "|  | updates | " + " | ".join(cell.name for cell in ZERO_SHOT) + " |", rows


def _normalized(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def to_json(scores: Scores, curves: Curves) -> dict[str, object]:
    """Returns the same numbers as JSON types."""
    cells: Sequence[Cell] = list(dict.fromkeys(cell for cells in TABLES.values() for cell in cells))

    def told(found: Score | None) -> dict[str, object] | None:
        if found is None:
            return None
        return {
            "median": found.median,
            "interval": list(found.interval),
            "seeds": found.seeds,
            "part": found.part,
        }

    return {
        "full": {cell.name: told(scores(cell, "full")) for cell in (*cells, WNLI, DIAGNOSTICS)},
        "ablations": {
            variant: {cell.name: told(scores(cell, variant)) for cell in ABLATED} for variant in ABLATIONS
        },
        "transfer": {
            cell.name: {str(blocks): told(one) for blocks, one in curve.items()}
            for cell, curve in transfer_curves(scores).items()
        },
        "zero_shot": {
            name: {
                cell.name: {str(step): value for step, value in values.items()}
                for cell, values in curve.items()
            }
            for name, curve in curves.items()
        },
    }
