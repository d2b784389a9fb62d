"""What long contiguous text is worth: a model of the demo beside one of the same text with its sentences shuffled.

    python -m benchmarks.contiguous --output=DIR

This is the paper's argument for books and against the 1 Billion Word Benchmark, whose sentences are shuffled. Both
texts have the same sentences, the same tokenizer and the same validation text, which is as it was written. Each
pre-training and each fine-tuning is a run directory below DIR, and a finished one is kept, so the same command goes on
after an interruption. DIR/table.md has bits per byte and the tasks' scores, with differences.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from benchmarks.comparing import compare_runs, seeds_difference
from benchmarks.sentences import ORDERS, write_text
from benchmarks.variants import call
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.catalog import find_task

# Half of a preset `tiny`, which is enough to tell the two texts apart.
_MODEL = {
    "model.num_layers": 3,
    "model.num_heads": 3,
    "model.d_model": 192,
    "model.d_ff": 768,
    "data.vocab_size": 2048,
    # The last of each 20 documents is held out: all of the demo's validation text.
    "data.split_seed": -1,
    "train.eval_every": 1_000_000,
    "train.checkpoint_every": 1_000_000,
    "optimizer.warmup_steps": 100,
}

_OUTPUT = flags.DEFINE_string("output", None, "the directory of texts and runs")
_SEEDS = flags.DEFINE_list("seeds", "0,1,2", "seeds of each pre-training and of its fine-tunings")
_STEPS = flags.DEFINE_integer("steps", 600, "steps of each pre-training")
_ZERO_SHOT = flags.DEFINE_list(
    "zero_shot_tasks", "demo_next_verse", "demo tasks to score without fine-tuning"
)
_TASKS = flags.DEFINE_list("tasks", "demo_next_verse", "demo tasks to fine-tune on")
_MAX_EXAMPLES = flags.DEFINE_integer("max_examples", 1000, "examples of each fine-tuning")
_SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE of the config, for every pre-training")


def main(_: list[str]) -> None:
    """Writes the two texts, makes the runs that are missing, and prints the table."""
    if _OUTPUT.value is None:
        raise UserError("--output is missing; name the directory of the runs.")
    output, seeds = Path(_OUTPUT.value), _SEEDS.value
    for task in [*_TASKS.value, *_ZERO_SHOT.value]:
        find_task(task)
    for order in ORDERS:
        write_text(output / f"{order}.jsonl", order)
    for seed in seeds:
        for order in ORDERS:
            pretrain(output, order, seed)
            for task in _ZERO_SHOT.value:
                zero_shot(output, order, seed, task)
    for seed in seeds:
        for order in ORDERS:
            for task in _TASKS.value:
                finetune(output, order, seed, task)
    table = make_table(output, _TASKS.value, seeds)
    (output / "table.md").write_text(table)
    print(table)


def pretrain(output: Path, order: str, seed: str) -> None:
    """Pre-trains on one of the texts; all runs have the tokenizer of the first."""
    first = output / ORDERS[0] / _SEEDS.value[0]
    tokenizer = {} if (order, seed) == (ORDERS[0], _SEEDS.value[0]) else {
        "data.tokenizer": f"sentencepiece:{first.absolute()}/tokenizer/sentencepiece.model"
    }  # fmt: skip
    settings = _MODEL | tokenizer | {"train.num_steps": _STEPS.value, "seed": seed}
    settings["data.source"] = f"text:{output.absolute()}/{order}.jsonl"
    _run("pretrain.py:tiny", output / order / seed, [*_pairs(settings), *_SET.value])


def zero_shot(output: Path, order: str, seed: str, task: str) -> None:
    """Scores a pre-trained run on a task of which it has seen no example."""
    place = output / f"zero_shot_{task}" / order / seed / "results.json"
    if not place.exists():
        found = "".join(call("evaluate", f"--workdir={output / order / seed}", f"--zero_shot={task}"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"validation": json.loads(found)}) + "\n")


def finetune(output: Path, order: str, seed: str, task: str) -> None:
    """Fine-tunes a pre-trained run."""
    settings = {"init_from": output / order / seed, "finetune.max_examples": _MAX_EXAMPLES.value}
    _run(f"finetune.py:{task}", output / task / order / seed, _pairs(settings | {"seed": seed}))


def make_table(output: Path, tasks: Sequence[str], seeds: Sequence[str]) -> str:
    """Returns the means over seeds, and the differences with 95 % intervals: of t, and of a paired bootstrap."""
    lines = [f"| | {' | '.join(ORDERS)} | difference |", "|---|---|---|---|"]
    bits = [[_scores(output / order / seed)["bits_per_byte"] for seed in seeds] for order in ORDERS]
    found = " | ".join(f"{statistics.mean(values):.3f}" for values in bits)
    lines.append(f"| bits a byte | {found} | {seeds_difference(*bits, digits=3)} |")
    for task in _ZERO_SHOT.value:
        metric = find_task(task).metrics[0]
        values = [
            [100 * _scores(output / f"zero_shot_{task}" / order / seed)[metric] for seed in seeds]
            for order in ORDERS
        ]
        found = " | ".join(f"{statistics.mean(some):.1f}" for some in values)
        lines.append(
            f"| {task} without fine-tuning, {metric} | {found} | {seeds_difference(*values, digits=1)} |"
        )
    for task in tasks:
        metric = find_task(task).metrics[0]
        values = [
            [_scores(output / task / order / seed, "predictions")[metric] for seed in seeds]
            for order in ORDERS
        ]
        found = " | ".join(f"{100 * statistics.mean(some):.1f}" for some in values)
        compared = compare_runs(*(output / task / order for order in ORDERS))
        lines.append(f"| {task}, {metric} | {found} | {compared} |")
    return "\n".join([*lines, ""])


def _scores(run: Path, part: str = "validation") -> dict[str, float]:
    found = json.loads((run / "results.json").read_text())
    return found.get(part) or found["validation"]


def _pairs(settings: Mapping[str, object]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def _run(config: str, workdir: Path, settings: Sequence[str]) -> None:
    """Trains by the command that a user gives, which does nothing where the run is finished."""
    flags = [f"--config=configs/{config}", f"--workdir={workdir}"]
    for _ in call("main", *flags, *(f"--config.{setting}" for setting in settings)):
        pass


if __name__ == "__main__":
    door(main)
