"""The paper's ablations on chosen tasks: its table 5 and figure 2 (left), for any pre-trained run.

    python -m benchmarks.ablations --init_from=RUN --output=DIR --tasks=demo_genre,cola:files:data/CoLA --seeds=0,1,2

Every fine-tuning is a run directory DIR/TASK/VARIANT/SEED. A finished one is kept, so the same command goes on after an
interruption, and further commands add to what DIR holds: DIR/table.md has all scores, DIR/differences.md says which
variants differ from "full" by a paired bootstrap over examples and seeds, and DIR/transfer.png shows the scores against
the number of transferred blocks.
"""

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from absl import flags
from matplotlib.figure import Figure

from benchmarks.baselines import BASELINES, baseline_scores
from benchmarks.comparing import compare_runs
from configs.finetune import paper
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.reading import read_task
from gpt1_jax.training.finetuning import draw_examples

# What each variant of a fine-tuning changes. `lstm` starts from another run; `transfer` is a variant for each number
# of blocks.
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no_pretraining": {"finetune.num_transfer_layers": -1},
    "no_auxiliary": {"finetune.auxiliary_weight": 0.0},
    "lstm": {},
    # The authors' way, switch by switch, and common errors of write-ups.
    "authors": {
        "model.embedding_dropout_form": "matrix",
        "model.dtype": "float32",
        "train.eval_every": -1,
        "finetune.batching": "shuffled",
        "finetune.remainder": "dropped",
        "finetune.softmax": "authors",
    },
    "shuffled": {"finetune.batching": "shuffled"},
    "pools": {"finetune.batching": "pools"},
    "dropped": {"finetune.remainder": "dropped"},
    "last": {"finetune.select": "last"},
    "matrix": {"model.embedding_dropout_form": "matrix"},
    "softmax_authors": {"finetune.softmax": "authors"},
    "decay_all": {"optimizer.decayed": "all"},
    "adamw": {"optimizer.name": "adamw"},
    "warmup_cosine": {"optimizer.schedule": "warmup_cosine"},
    "warmup_constant": {"optimizer.schedule": "warmup_constant"},
    "no_clipping": {"optimizer.clip_norm": 0.0},
    # λ on the loss of the task is 1/λ on the other, but for the scale of both, which Adam does not see.
    "weighted_task": {"finetune.auxiliary_weight": 2.0},
}
CHOICES = (*VARIANTS, "transfer", "zero_shot", "baselines")
TRANSFER = "transfer_"

_INIT_FROM = flags.DEFINE_string("init_from", None, "the pre-trained run")
_LSTM_FROM = flags.DEFINE_string(
    "lstm_from", None, "a run pre-trained with model.kind=lstm, for the variant lstm"
)
_OUTPUT = flags.DEFINE_string("output", None, "the directory of all runs")
_TASKS = flags.DEFINE_list("tasks", [], "TASK or TASK:SOURCE, such as cola:files:data/CoLA")
_VARIANTS = flags.DEFINE_list(
    "variants", "full,no_pretraining,no_auxiliary,baselines", f"of {', '.join(CHOICES)}"
)
_SEEDS = flags.DEFINE_list("seeds", "0", "seeds of each fine-tuning")
_MAX_EXAMPLES = flags.DEFINE_integer("max_examples", 0, "examples of training, as finetune.max_examples")
_SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE of the config, for every fine-tuning")


def main(_: list[str]) -> None:
    """Makes the runs that are missing, then writes the table and the picture."""
    start, directory = _INIT_FROM.value, _OUTPUT.value
    if start is None or directory is None:
        raise UserError("--init_from=RUN and --output=DIR are both needed.")
    for variant in _VARIANTS.value:
        if variant not in CHOICES or (variant == "lstm" and _LSTM_FROM.value is None):
            raise UserError(
                f"--variants={variant} is not possible; choose of {', '.join(CHOICES)}, and give "
                "--lstm_from=RUN for lstm."
            )
    output = Path(directory)
    for spec in _TASKS.value:
        task, source = [*spec.split(":", 1), ""][:2]
        find_task(task)
        for variant in _VARIANTS.value:
            place = output / task / variant
            if variant == "zero_shot":
                zero_shot(place, task, source, start)
            elif variant == "baselines":
                baselines(output / task, task, source)
            elif variant == "transfer":
                for blocks in range(Run(start).config().model.num_layers + 1):
                    changes = {"finetune.num_transfer_layers": blocks}
                    finetune(output / task / f"{TRANSFER}{blocks}", task, source, start, changes)
            else:
                begin = _LSTM_FROM.value if variant == "lstm" else start
                finetune(place, task, source, begin, VARIANTS[variant])
    scores = collect(output)
    table = make_table(scores)
    (output / "table.md").write_text(table)
    print(table)
    differences = make_differences(output)
    if differences:
        (output / "differences.md").write_text(differences)
        print(differences)
    if any(variant.startswith(TRANSFER) for _, variant in scores):
        draw_transfer(scores, output / "transfer.png")


def finetune(place: Path, task: str, source: str, start: str | None, changes: dict[str, Any]) -> None:
    """Fine-tunes once for each seed, by the command a user gives; finished runs are kept."""
    settings = [f"{key}={value}" for key, value in changes.items()] + _SET.value
    settings += [f"finetune.max_examples={_MAX_EXAMPLES.value}", f"init_from={start}"]
    settings += [f"data.source={source}"] if source else []
    for seed in _SEEDS.value:
        workdir = place / seed
        if (workdir / "predictions").exists():
            continue
        _run(
            "main",
            f"--config=configs/finetune.py:{task}",
            f"--workdir={workdir}",
            *(f"--config.{setting}" for setting in [*settings, f"seed={seed}"]),
        )


def zero_shot(place: Path, task: str, source: str, start: str) -> None:
    """Scores the pre-trained run itself."""
    if not (place / "results.json").exists():
        out = _run(
            "evaluate",
            f"--workdir={start}",
            f"--zero_shot={task}",
            *([f"--source={source}"] if source else []),
        )
        _write(place, json.loads(out))


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
        _write(place / name, found)


def collect(output: Path) -> dict[tuple[str, str], list[float]]:
    """Returns (task, variant) → the task's first metric, one number a seed; unfinished fine-tunings are left out."""
    scores = defaultdict(list)
    for path in sorted(output.glob("*/*/**/results.json")):
        if (path.parent / "config.json").exists() and not (path.parent / "predictions").exists():
            continue
        task, variant, *_ = path.relative_to(output).parts
        found = json.loads(path.read_text())
        # Those of the predictions, which a fine-tuning makes with the parameters that finetune.select names.
        measured = found.get("predictions") or found["validation"]
        scores[task, variant].append(measured[find_task(task).metrics[0]])
    return dict(scores)


def make_table(scores: dict[tuple[str, str], list[float]]) -> str:
    """Returns the table, a row a variant and a column a task: 100 times the mean, ± half the range, and the seeds."""
    tasks = list(dict.fromkeys(task for task, _ in scores))
    variants = sorted(dict.fromkeys(variant for _, variant in scores), key=_order)
    lines = ["| | " + " | ".join(f"{task} ({find_task(task).metrics[0]})" for task in tasks) + " |"]
    lines.append("|---" * (len(tasks) + 1) + "|")
    for variant in variants:
        cells = [_cell(scores.get((task, variant), [])) for task in tasks]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def make_differences(output: Path) -> str:
    """The table of how each variant differs from "full", on the same examples and over the seeds that both have."""
    lines = []
    for place in sorted(output.glob("*/*"), key=lambda path: (path.parent.name, _order(path.name))):
        reference = place.with_name("full")
        if place == reference or not reference.exists():
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


def _run(command: str, *arguments: str) -> str:
    line = [sys.executable, "-m", f"gpt1_jax.{command}", *arguments]
    print("+", *line[1:], file=sys.stderr, flush=True)
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"The command above ended with {done.returncode}; correct that, and run this again.")
    return done.stdout


def _write(place: Path, scores: dict[str, float]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "results.json").write_text(json.dumps({"validation": scores}) + "\n")


def _order(variant: str) -> tuple[int, str]:
    known = [*VARIANTS, "zero_shot", *BASELINES]
    return (known.index(variant) if variant in known else len(known), variant)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    mean = f"{100 * statistics.mean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {50 * (max(values) - min(values)):.1f} ({len(values)})"


if __name__ == "__main__":
    door(main)
