"""GPT-1, GPT-2 and BERT side by side, changed one thing at a time: python -m benchmarks.families --output=DIR

Every model has the same corpus, width, layers and steps. From GPT-1 the norm and the pieces are changed, each alone and
then together, which is GPT-2; with BERT's pieces it stands beside BERT itself. Each model is pre-trained once and then
fine-tuned on every task, once a seed.

All runs are directories: DIR/models/MODEL and DIR/tasks/TASK/MODEL/SEED. Finished ones are kept, and one that was
stopped goes on, so the same command goes on after an interruption. DIR/families.md is the table, families.json all
numbers, families.svg the picture.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from absl import flags
from matplotlib.figure import Figure

from benchmarks.baselines import baseline_scores
from benchmarks.variants import Setting, finetune, is_finished, pretrain, read_results
from configs.finetune import setting_of
from configs.pretrain import BERT
from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.demo_tasks import DEMO_TASKS
from gpt1_jax.tasks.reading import read_task
from gpt1_jax.training.labeled import draw_examples

_PRE = {"model.norm": "pre"}
_BYTES = {"data.tokenizer": "byte_bpe"}
_WORDS = {"data.tokenizer": "wordpiece"}
# What each model changes of GPT-1.
MODELS: dict[str, dict[str, Any]] = {
    "gpt1": {},
    "gpt1_pre": _PRE,
    "gpt1_bytes": _BYTES,
    "gpt2": _PRE | _BYTES,
    "gpt1_words": _WORDS,
    "bert": _WORDS | {f"model.{key}": value for key, value in BERT.items()},
}
# What is said of each in the table.
_NAMES = {
    "gpt1": "GPT-1",
    "gpt1_pre": "GPT-1, norm before the branch",
    "gpt1_bytes": "GPT-1, pieces of bytes",
    "gpt2": "GPT-2: both",
    "gpt1_words": "GPT-1, BERT's pieces",
    "bert": "BERT: these, both ways, fills masks",
}
# What all change of the preset `tiny`: smaller, and eight times the text a step, of which 15 % teach a BERT.
_PRETRAINING = {
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.d_model": 128,
    "model.d_ff": 512,
    "model.embedding_dropout": 0.0,
    "model.attention_dropout": 0.0,
    "model.residual_dropout": 0.0,
    "data.vocab_size": 2_048,
    "train.batch_size": 64,
    "optimizer.learning_rate": 2e-3,
}
# What all fine-tunings change of the presets of the demo tasks.
_FINETUNING = {"train.num_epochs": 2.0}

# Tests import benchmarks that share names of flags into one process.
_SHARED: Any = {"allow_override": True}
_OUTPUT = flags.DEFINE_string("output", None, "the directory of all runs", **_SHARED)
_MODELS = flags.DEFINE_list("models", list(MODELS), "which models", **_SHARED)
_TASKS = flags.DEFINE_list(
    "tasks", list(DEMO_TASKS), "TASK or TASK:SOURCE, such as cola:files:data/CoLA", **_SHARED
)
_SEEDS = flags.DEFINE_list("seeds", "0,1,2", "seeds of each fine-tuning", **_SHARED)
_STEPS = flags.DEFINE_integer("steps", 2_000, "updates of pre-training", 1, **_SHARED)
_EXAMPLES = flags.DEFINE_integer(
    "examples", 2_000, "examples of training, as finetune.max_examples; 0 is all", 0
)
_PRETRAIN = flags.DEFINE_multi_string("pretrain", [], "KEY=VALUE of the config, for every pre-training")
_FINETUNE = flags.DEFINE_multi_string("finetune", [], "KEY=VALUE of the config, for every fine-tuning")


class Column(NamedTuple):
    """How a task is solved, by its first metric.

    Attributes:
        models: the scores of each model, one a seed.
        baselines: the scores of what has no language model.
    """

    models: dict[str, list[float]]
    baselines: dict[str, float]


def main(_: list[str]) -> None:
    """Makes the runs that are missing; after each model it writes table, numbers and picture of what there is."""
    if _OUTPUT.value is None:
        raise UserError("--output=DIR is missing; name the directory of the runs.")
    for name in _MODELS.value:
        if name not in MODELS:
            raise UserError(f"--models={name} is no model here; choose of {', '.join(MODELS)}.")
    settings = (*_finetuning(), f"finetune.max_examples={_EXAMPLES.value}")
    tasks = [Setting(*_task_and_source(spec), tuple(_SEEDS.value), settings) for spec in _TASKS.value]
    output = Path(_OUTPUT.value)
    baselines = {setting.task: find_baselines(setting) for setting in tasks}
    table = ""
    for model in _MODELS.value:
        settings = _PRETRAINING | MODELS[model] | {"train.eval_every": _STEPS.value}
        given = [f"{key}={value}" for key, value in settings.items()] + _PRETRAIN.value
        pretrain(output / "models" / model, _STEPS.value, given)
        for setting in tasks:
            finetune(output / "tasks" / setting.task / model, setting, str(output / "models" / model), {})
        columns = {task: Column(collect(output / "tasks" / task), found) for task, found in baselines.items()}
        table = write(output, columns)
    print(table)


def find_baselines(setting: Setting) -> dict[str, float]:
    """Returns the scores of the baselines on the examples that the fine-tunings have."""
    config = setting_of(setting.task)
    assert config.finetune is not None
    source = setting.source or config.data.source
    data = read_task(config.finetune, replace(config.data, source=source))
    found = baseline_scores(data.task, draw_examples(data.train, _EXAMPLES.value, seed=0), data.validation)
    return {name: scores[data.task.metrics[0]] for name, scores in found.items()}


def collect(place: Path) -> dict[str, list[float]]:
    """Returns the scores of the finished runs in DIR/tasks/TASK by their models, one a seed."""
    metric = find_task(place.name).metrics[0]
    found = {
        name: [
            read_results(run)["predictions"][metric]
            for run in sorted((place / name).glob("*"))
            if is_finished(run)
        ]
        for name in MODELS
    }
    return {name: scores for name, scores in found.items() if scores}


def write(output: Path, columns: dict[str, Column]) -> str:
    """Writes table, numbers and picture; returns the table."""
    runs = {name: read_results(output / "models" / name).get("validation") for name in MODELS}
    results = {name: found for name, found in runs.items() if found}
    table = make_table(results, columns)
    facts = {
        "steps": _STEPS.value,
        "examples": _EXAMPLES.value,
        "pretraining": [f"{key}={value}" for key, value in _PRETRAINING.items()] + _PRETRAIN.value,
        "finetuning": _finetuning(),
        "models": {name: {"changes": MODELS[name], "validation": found} for name, found in results.items()},
        "tasks": {
            task: {"metric": find_task(task).metrics[0], **column._asdict()}
            for task, column in columns.items()
        },
    }
    write_whole(output / "families.md", table)
    write_whole(output / "families.json", json.dumps(facts, indent=1) + "\n")
    # Text stays text, and neither the day nor the machine is written, so the same numbers give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpt1_jax"}):
        draw(columns).savefig(output / "families.svg", metadata={"Date": None})
    return table


def make_table(results: dict[str, dict[str, float]], columns: dict[str, Column]) -> str:
    """Returns the table in Markdown, a row a model or baseline: 100 times the mean, ± half the range over seeds.

    Args:
        results: what pre-training says of the held-out text, by the model.
        columns: by the task.
    """
    heads = ["held-out text", *(f"{task}, {find_task(task).metrics[0]}" for task in columns)]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, found in results.items():
        cells = [_cell(column.models.get(name, [])) for column in columns.values()]
        lines.append(f"| {_NAMES[name]} | {_held_out(found)} | {' | '.join(cells)} |")
    for name in dict.fromkeys(name for column in columns.values() for name in column.baselines):
        cells = [
            _cell([x] if (x := column.baselines.get(name)) is not None else []) for column in columns.values()
        ]
        lines.append(f"| {name} | | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(columns: dict[str, Column]) -> Figure:
    """Draws a panel for each task: a point for each seed of each model, and a dashed line for the best baseline."""
    figure = Figure(figsize=(9.6, 2.6 * -(-len(columns) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(columns) // 3), min(3, len(columns)), squeeze=False).ravel()
    for axes, (task, column) in zip(panels, columns.items(), strict=False):
        names = list(reversed(column.models))
        for row, name in enumerate(names):
            scores = [100 * score for score in column.models[name]]
            axes.plot(scores, [row] * len(scores), "o", alpha=0.6)
        if column.baselines:
            name, best = max(column.baselines.items(), key=lambda item: item[1])
            axes.axvline(100 * best, linestyle="--", linewidth=1, color="gray")
            axes.annotate(f"{name} ", (100 * best, -0.7), ha="right", color="gray", fontsize=8)
        # Room below the last model, for the name of the baseline.
        axes.set_ylim(-0.9, len(names) - 0.6)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(f"{task}, {find_task(task).metrics[0]}", fontsize=10)
    for axes in panels[len(columns) :]:
        axes.remove()
    return figure


def _finetuning() -> list[str]:
    return [f"{key}={value}" for key, value in _FINETUNING.items()] + _FINETUNE.value


def _task_and_source(spec: str) -> tuple[str, str]:
    task, _, source = spec.partition(":")
    find_task(task)
    return task, source


def _held_out(found: dict[str, float]) -> str:
    """Returns what a model makes of the held-out text: bits a byte, or of one that fills masks its perplexity."""
    if "bits_per_byte" in found:
        return f"{found['bits_per_byte']:.3f} bits a byte"
    return f"perplexity {found['perplexity']:.1f} of a piece"


def _cell(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    mean = f"{100 * statistics.mean(scores):.1f}"
    return mean if len(scores) == 1 else f"{mean} ± {50 * (max(scores) - min(scores)):.1f}"


if __name__ == "__main__":
    door(main)
