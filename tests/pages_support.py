"""Run directories as trainings leave them, made up, for the tests of pages."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from support import tiny_config

from gpt1_jax.pages.explained import Reading, WordBits
from gpt1_jax.pages.judged import Judged, judge_classes
from gpt1_jax.run import Run
from gpt1_jax.training.writers import TensorBoardWriter

# What a text, a label or a sample could do to a page that takes it as HTML.
HOSTILE = '</script><script>document.title="broken"</script><img src=x onerror="document.title=1"> & "quoted"'


def make_run(directory: Path, sample: str = "once upon a time", steps: int = 40, **overrides: Any) -> Run:
    """Makes a pre-trained run with a log, results and two samples."""
    run = Run(str(directory))
    run.record(tiny_config(**overrides), {})
    lines = []
    for step in range(1, steps + 1):
        values = {
            "loss": 5 - step / 20,
            "learning_rate": 1e-3,
            "grad_norm": 1.0,
            "tokens_per_second": 1000.0 + step,
        }
        lines.append({"step": step, "kind": "train", **values})
        if step % 10 == 0:
            lines.append(
                {
                    "step": step,
                    "kind": "eval",
                    "loss": 5 - step / 25,
                    "perplexity": 30.0,
                    "bits_per_byte": 2.5,
                }
            )
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = {"step": steps, "loss": 3.4, "perplexity": 30.0, "bits_per_byte": 2.5}
    run.write_results({"kind": "pretrain", "task": None, "step": steps, "validation": best, "best": best})
    board = TensorBoardWriter(epath.Path(directory) / "tensorboard", 1)
    board.add(10, {"train/loss": 1.0})
    board.add_text(10, "sample", "the first")
    board.add_text(steps, "sample", sample)
    board.close()
    return run


def make_tuned(directory: Path, **overrides: Any) -> Run:
    """Makes a fine-tuned run with a score, its interval, and no page yet."""
    run = Run(str(directory))
    about = {"finetune.task": "cola", "init_from": "runs/books", "data.source": "files:cola"}
    run.record(tiny_config(**about | overrides), {})
    lines = [
        {
            "step": step,
            "kind": kind,
            "loss": 1.0,
            "task_loss": 0.5,
            "lm_loss": 1.0,
            "matthews_correlation": 0.3,
        }
        for step in (5, 10)
        for kind in ("train", "eval")
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = {"matthews_correlation": 0.3, "examples": 4}
    found = {"step": 10, **scores, "interval": [0.1, 0.5]}
    results = {
        "kind": "finetune",
        "task": "cola",
        "step": 10,
        "validation": scores,
        "best": {"step": 10, **scores},
    }
    run.write_results(results | {"predictions": found})
    return run


def judged(names: tuple[str, str] = ("bad", "good"), text: str = "An example.") -> Judged:
    """Judges four examples, of which one is wrong with 0.9 and one with 0.6."""
    chances = [[0.8, 0.2], [0.1, 0.9], [0.6, 0.4], [0.1, 0.9]]
    return judge_classes(10, names, [0, 0, 1, 1], chances, [(f"{text} {i}",) for i in range(4)])


def make_reading(
    pieces: Sequence[str],
    run: str = "runs/books",
    causal: bool = True,
    shape: tuple[int, int] = (2, 3),
    seed: int = 0,
) -> Reading:
    """Makes up what a model of so many layers and heads makes of these pieces."""
    generator, length = np.random.default_rng(seed), len(pieces)
    attention = generator.random((*shape, length, length)).astype(np.float32) ** 4
    if causal:
        attention = np.tril(attention)
    ids = [*range(1, length + 1)]
    bits = [None, *generator.uniform(0, 20, length - 1).tolist()]
    guesses = [[(id, 0.5), (0, 0.25)] for id in ids]
    return Reading(
        run=run,
        step=1500,
        causal=causal,
        ids=ids,
        pieces=pieces,
        names={0: " other", **dict(zip(ids, pieces, strict=True))},
        tokens=length + 1000,
        bits=bits,
        guesses=guesses,
        lens=[guesses] * (shape[0] + 1),
        follows=[[None if x is None else 0.125 for x in bits]] * (shape[0] + 1),
        attention=attention / attention.sum(-1, keepdims=True),
        words=[WordBits(0, 1, 3.0), WordBits(2, 5, None), WordBits(6, 7, 4.0 + seed)],
    )
