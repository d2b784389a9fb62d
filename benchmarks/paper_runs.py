"""The runs that the paper's tables and pictures are made of: which there are, and making those that are missing."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.published import ABLATED, ABLATIONS, TRANSFERRED, ZERO_SHOT, Cell
from benchmarks.seeds import read_examples
from benchmarks.variants import (
    VARIANTS,
    Setting,
    call,
    finetune,
    is_finished,
    read_results,
    transfers,
    write_scores,
)
from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.predictions import write_predictions
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.usage.labeling import predict_examples
from gpt1_jax.usage.trained import TrainedRun

# The folders that a task's data may lie in.
FOLDERS: dict[str, tuple[str, ...]] = {
    "cola": ("CoLA",),
    "sst2": ("SST-2",),
    "mrpc": ("MRPC",),
    "stsb": ("STS-B",),
    "qqp": ("QQP",),
    "mnli": ("MNLI",),
    "qnli": ("QNLI",),
    "rte": ("RTE",),
    "wnli": ("WNLI",),
    "snli": ("SNLI", "snli_1.0"),
    "scitail": ("SciTail", "SciTailV1.1"),
    "race": ("RACE",),
    "story_cloze": ("StoryCloze",),
    "ax": ("AX", "diagnostic"),
    "dprd": ("DPR",),
}


class Plan(NamedTuple):
    """What is asked for.

    Attributes:
        output: the directory of all that is made.
        start: the pre-trained run.
        lstm: one with model.kind=lstm, or None.
        seeds: of each fine-tuning.
        settings: KEY=VALUE of the config of each fine-tuning.
    """

    output: Path
    start: str
    lstm: str | None
    seeds: tuple[str, ...]
    settings: tuple[str, ...]


def work(plan: Plan, sources: Mapping[str, str]) -> Iterator[None]:
    """Fine-tunes and scores what is missing; yields after each part.

    Args:
        plan: what is asked for.
        sources: the data.source of each task.
    """
    output, start = plan.output, plan.start
    starts = {"transformer": start} | ({"lstm": plan.lstm} if plan.lstm else {})

    def run(task: str, variants: Mapping[str, Mapping[str, Any]]) -> None:
        setting = Setting(task, sources[task], plan.seeds, plan.settings)
        for name, changes in variants.items():
            finetune(output / task / name, setting, starts.get(name, start), changes)

    for name, begin in starts.items():
        for cell in ZERO_SHOT:
            if cell.task in sources:
                zero_shot(output / cell.task / f"zero_shot_{name}", cell.task, sources[cell.task], begin)
    yield
    for task in FOLDERS:
        if task == "ax":
            diagnose(output, sources)
        elif task in sources and task != "dprd":
            run(task, {"full": VARIANTS["full"]})
            yield
    for cell in ABLATED:
        if cell.task in sources:
            run(cell.task, {name: VARIANTS[name] for name in ABLATIONS if name != "lstm" or name in starts})
            yield
    for cell in TRANSFERRED:
        if cell.task in sources:
            run(cell.task, transfers(Run(start).config().model.num_layers))
            yield


def find_data(data: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the data.source of each task whose data is there and sound, and why the other tasks are left out."""
    sources, missing = {}, {}
    for task, names in FOLDERS.items():
        found = next((data / name for name in names if (data / name).is_dir()), None)
        if found is None:
            missing[task] = f"{data} has no folder {' or '.join(names)}."
            continue
        try:
            if read_examples(task, f"files:{found}", "test" if task == "ax" else "train"):
                sources[task] = f"files:{found}"
            else:
                missing[task] = f"{found} has no examples of it."
        except UserError as error:
            missing[task] = str(error)
    if "ax" in sources and "mnli" not in sources:
        missing["ax"] = "a run of mnli predicts it."
        del sources["ax"]
    return sources, missing


def zero_shot(place: Path, task: str, source: str, start: str) -> None:
    """Scores each checkpoint of a pre-trained run, in PLACE/STEP."""
    steps = [
        step for step in Checkpoints(Run(start).checkpoints).steps() if not read_results(place / str(step))
    ]
    if steps:
        named = ",".join(map(str, steps))
        flags = (f"--workdir={start}", f"--zero_shot={task}", f"--source={source}", f"--steps={named}")
        for line in call("evaluate", *flags):
            found = json.loads(line)
            write_scores(place / str(found["step"]), found)


def diagnose(output: Path, sources: Mapping[str, str]) -> None:
    """Predicts GLUE's diagnostics with each finished run of mnli, in OUTPUT/ax/full/SEED."""
    if "ax" not in sources:
        return
    for run in (path.parent for path in sorted((output / "mnli" / "full").glob("*/results.json"))):
        place = output / "ax" / "full" / run.name
        if not is_finished(run) or is_finished(place):
            continue
        trained = TrainedRun(str(run))
        for part in ("test", "validation"):
            examples = read_examples("ax", sources["ax"], part)
            predictions = predict_examples(trained, examples) if examples else []
            write_predictions(
                Run(str(place)).directory / "predictions", part, find_task("ax"), predictions, examples
            )
        write_whole(place / "results.json", json.dumps({"predictions": {"step": trained.step}}) + "\n")


def read_curves(output: Path) -> dict[str, dict[Cell, dict[int, float]]]:
    """Returns the normalized zero-shot scores by run, cell and step."""
    curves: dict[str, dict[Cell, dict[int, float]]] = {}
    for cell, (chance, best) in ZERO_SHOT.items():
        for path in sorted(output.glob(f"{cell.task}/zero_shot_*/*/results.json")):
            name, step = path.parts[-3].removeprefix("zero_shot_"), int(path.parts[-2])
            found = 100 * read_results(path.parent)["validation"][cell.metric]
            curves.setdefault(name, {}).setdefault(cell, {})[step] = (found - chance) / (best - chance)
    return curves
