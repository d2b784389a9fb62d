"""The paper's ablations on chosen tasks: its table 5 and figure 2 (left), for any pre-trained run.

    python -m benchmarks.ablations --init_from=RUN --output=DIR --tasks=demo_genre,cola:files:data/CoLA --seeds=0,1,2

Every fine-tuning is a run directory DIR/TASK/VARIANT/SEED. A finished one is kept, so the same command goes on after an
interruption, and further commands add to what DIR holds: DIR/table.md has all scores, DIR/differences.md says which
variants differ from "full", and DIR/transfer.png shows the scores against the number of transferred blocks. Intervals
are the middle 95 % of a bootstrap over examples and seeds, paired for differences.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from absl import flags
from matplotlib.figure import Figure

from benchmarks.baselines import BASELINES, baseline_scores
from benchmarks.comparing import compare_runs, interval_of_runs
from benchmarks.run_flags import INIT_FROM, LSTM_FROM, OUTPUT, SEEDS, SET
from benchmarks.variants import (
    TRANSFER,
    VARIANTS,
    Setting,
    call,
    finetune,
    is_finished,
    read_results,
    transfers,
    write_scores,
)
from configs.finetune import paper
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.reading import read_task
from gpt1_jax.training.labeled import draw_examples

CHOICES = (*VARIANTS, "transfer", "zero_shot", "baselines")

_VARIANT_FROM = flags.DEFINE_multi_string(
    "variant_from",
    [],
    "NAME=RUN: a further variant, which differs in the pre-trained run, such as relu=runs/relu",
)
_TASKS = flags.DEFINE_list("tasks", [], "TASK or TASK:SOURCE, such as cola:files:data/CoLA")
_VARIANTS = flags.DEFINE_list(
    "variants", "full,no_pretraining,no_auxiliary,baselines", f"of {', '.join(CHOICES)}"
)
_MAX_EXAMPLES = flags.DEFINE_integer("max_examples", 0, "examples of training, as finetune.max_examples")


def main(_: list[str]) -> None:
    """Makes the runs that are missing, then writes the table and the picture."""
    start, directory = INIT_FROM.value, OUTPUT.value
    if start is None or directory is None:
        raise UserError("--init_from=RUN and --output=DIR are both needed.")
    starts = {name: run for name, _, run in (pair.partition("=") for pair in _VARIANT_FROM.value)}
    starts |= {"lstm": LSTM_FROM.value} if LSTM_FROM.value else {}
    for variant in _VARIANTS.value:
        if variant not in (*CHOICES, *starts) or (variant == "lstm" and variant not in starts):
            raise UserError(
                f"--variants={variant} is not possible; choose of {', '.join(CHOICES)}, and give "
                "--lstm_from=RUN for lstm, or --variant_from=NAME=RUN for others."
            )
    output = Path(directory)
    settings = (*SET.value, f"finetune.max_examples={_MAX_EXAMPLES.value}")
    for spec in _TASKS.value:
        task, source = [*spec.split(":", 1), ""][:2]
        find_task(task)
        setting = Setting(task, source, tuple(SEEDS.value or ["0"]), settings)
        for variant in _VARIANTS.value:
            place = output / task / variant
            if variant == "zero_shot":
                zero_shot(place, task, source, start)
            elif variant == "baselines":
                baselines(output / task, task, source)
            elif variant == "transfer":
                for name, changes in transfers(Run(start).config().model.num_layers).items():
                    finetune(output / task / name, setting, start, changes)
            else:
                finetune(place, setting, starts.get(variant, start), VARIANTS.get(variant, {}))
    scores = collect(output)
    # Tags, spans and texts are not compared one by one.
    places = {key: output / "/".join(key) for key in scores if find_task(key[0]).whole}
    intervals = {
        key: found for key, place in places.items() if (found := interval_of_runs(place)) is not None
    }
    table = make_table(scores, intervals)
    (output / "table.md").write_text(table)
    print(table)
    differences = make_differences(output)
    if differences:
        (output / "differences.md").write_text(differences)
        print(differences)
    if any(variant.startswith(TRANSFER) for _, variant in scores):
        draw_transfer(scores, output / "transfer.png")


def zero_shot(place: Path, task: str, source: str, start: str) -> None:
    """Scores the pre-trained run itself."""
    if not (place / "results.json").exists():
        flags = [f"--workdir={start}", f"--zero_shot={task}", *([f"--source={source}"] if source else [])]
        write_scores(place, json.loads("".join(call("evaluate", *flags))))


def baselines(place: Path, task: str, source: str) -> None:
    """Scores the baselines of benchmarks.baselines on the same examples as the fine-tunings."""
    if any((place / name / "results.json").exists() for name in BASELINES):
        return
    config = paper(task)
    assert config.finetune is not None
    default = "demo" if task.startswith("demo_") else "tfds"
    data = read_task(config.finetune, replace(config.data, source=source or default))
    train = draw_examples(data.train, _MAX_EXAMPLES.value or 0, seed=0)
    for name, found in baseline_scores(data.task, train, data.validation).items():
        write_scores(place / name, found)


def collect(output: Path) -> dict[tuple[str, str], list[float]]:
    """Returns (task, variant) → the task's first metric, one number a seed; unfinished fine-tunings are left out."""
    scores = defaultdict(list)
    for path in sorted(output.glob("*/*/**/results.json")):
        if (path.parent / "config.json").exists() and not is_finished(path.parent):
            continue
        task, variant, *_ = path.relative_to(output).parts
        found = read_results(path.parent)
        # Those of the predictions, which a fine-tuning makes with the parameters that finetune.select names.
        measured = found.get("predictions") or found["validation"]
        scores[task, variant].append(measured[find_task(task).metrics[0]])
    return dict(scores)


def make_table(
    scores: Mapping[tuple[str, str], list[float]],
    intervals: Mapping[tuple[str, str], tuple[float, float]] = MappingProxyType({}),
) -> str:
    """Returns the table, a row a variant and a column a task: 100 times the mean, ± half the range, and the seeds.

    Args:
        scores: as `collect` returns them.
        intervals: the middle 95 % of means over resampled examples and seeds, where the predictions are there.
    """
    tasks = list(dict.fromkeys(task for task, _ in scores))
    variants = sorted(dict.fromkeys(variant for _, variant in scores), key=_order)
    lines = ["| | " + " | ".join(f"{task} ({find_task(task).metrics[0]})" for task in tasks) + " |"]
    lines.append("|---" * (len(tasks) + 1) + "|")
    for variant in variants:
        keys = [(task, variant) for task in tasks]
        cells = [_cell(scores.get(key, []), intervals.get(key)) for key in keys]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def make_differences(output: Path) -> str:
    """The table of how each variant differs from "full", on the same examples and over the seeds that both have."""
    lines = []
    for place in sorted(output.glob("*/*"), key=lambda path: (path.parent.name, _order(path.name))):
        reference = place.with_name("full")
        if place == reference or not reference.exists() or not find_task(place.parent.name).whole:
            continue
        found = compare_runs(reference, place)
        if found is not None:
            lines.append(f"| {place.parent.name} | {place.name} | {found} |")
    head = ["| task | variant | difference from full (95 % of resamples) |", "|---|---|---|"]
    return "\n".join([*head, *lines, ""]) if lines else ""


def draw_transfer(scores: dict[tuple[str, str], list[float]], path: Path) -> None:
    """Draws the score of each task against the number of transferred blocks."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.subplots()
    for task in dict.fromkeys(task for task, _ in scores):
        points = sorted(
            (int(variant.removeprefix(TRANSFER)), 100 * statistics.mean(values))
            for (name, variant), values in scores.items()
            if name == task and variant.startswith(TRANSFER)
        )
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=f"{task} ({find_task(task).metrics[0]})")
    axes.set(xlabel="blocks transferred from pre-training", ylabel="score · 100")
    axes.legend()
    figure.savefig(path)


def _order(variant: str) -> tuple[int, str]:
    known = [*VARIANTS, "zero_shot", *BASELINES]
    return (known.index(variant) if variant in known else len(known), variant)


def _cell(values: list[float], interval: tuple[float, float] | None) -> str:
    if not values:
        return ""
    told = f"{100 * statistics.mean(values):.1f}"
    if len(values) > 1:
        told += f" ± {50 * (max(values) - min(values)):.1f} ({len(values)})"
    return told if interval is None else f"{told} [{100 * interval[0]:.1f} to {100 * interval[1]:.1f}]"


if __name__ == "__main__":
    door(main)
