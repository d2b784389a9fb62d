"""README.md of an exported model, a card as Hugging Face's hub reads it: only what the run knows stands in it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt1_jax.interop.published import LanguageModel, Origin
from gpt1_jax.interop.tensors import SAFETENSORS
from gpt1_jax.tasks.task import Kind
from gpt1_jax.training import ledger
from gpt1_jax.wording import counted

CARD = "README.md"

_PIPELINES: dict[Kind, str] = {
    "classification": "text-classification",
    "entailment": "text-classification",
    "similarity": "text-classification",
    "choice": "multiple-choice",
    "tagging": "token-classification",
    "span": "question-answering",
    "completion": "text-generation",
}
# Sources whose language is known.
_ENGLISH = ("demo", "tfds:pg19", "tfds:lm1b", "tfds:wiki40b/en")
# The hub's names of metrics that it calls otherwise, or with another sense.
_METRICS = {"pearson": "pearsonr", "spearman": "spearmanr", "loss": "cross-entropy loss"}


def write_card(model: LanguageModel, values: dict[str, Any], directory: Path, notes: Sequence[str]) -> None:
    """Writes the card of a model that was exported into a directory.

    Args:
        model: the model.
        values: what its config.json says.
        directory: holds the exported files.
        notes: lines about what was left out, and how the model is used.
    """
    architecture = values["architectures"][0]
    parts = [
        _metadata(model, directory.name),
        f"# {_title(model)}\n",
        "\n".join(_about(model)),
        _how_to_load(architecture),
        *(["## Notes\n", "".join(f"- {note}\n" for note in notes)] if notes else []),
        *(_of_run(model.origin) if model.origin is not None else []),
        _files(model.origin, directory),
    ]
    (directory / CARD).write_text("\n".join(parts), encoding="utf-8")


# ── Metadata ─────────────────────────────────────────────────────────────────────────────────────────────────


def _metadata(model: LanguageModel, name: str) -> str:
    """Returns the card's YAML; each value is written as JSON, which YAML reads."""
    task = None if model.head is None else model.head.task
    default = "text-generation" if model.config.causal else "fill-mask"
    values: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": default if task is None else _PIPELINES[task.kind],
        "tags": ["gpt1_jax", model.family.model_type, *([] if task is None else [task.kind])],
    }
    origin = model.origin
    if origin is not None and origin.config.data.source in _ENGLISH:
        values["language"] = "en"
    if origin is not None and (scores := origin.scores()):
        values["model-index"] = [_results(origin, values["pipeline_tag"], scores)]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    unknown = ["# license: add yours; a run does not know it."]
    if "language" not in values:
        unknown.append("# language: add it; a run does not know that of its text.")
    return "\n".join(["---", *lines, *unknown, "---", ""])


def _results(origin: Origin, task: str, scores: dict[str, float]) -> dict[str, Any]:
    metrics = [
        {"type": _METRICS.get(name, name), "value": value, "name": name}
        for name, value in scores.items()
        if name not in ("examples", "interval")
    ]
    data = origin.data
    result = {
        "task": {"type": task},
        "dataset": {"type": data, "name": f"{data}, held out"},
        "metrics": metrics,
    }
    return {"name": origin.name, "results": [result]}


# ── Text ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _title(model: LanguageModel) -> str:
    return f"A {model.family.title}" if model.origin is None else model.origin.name


def _about(model: LanguageModel) -> Iterator[str]:
    config, size = model.config, sum(array.size for array in model.weights.values())
    what = f"A {model.family.title} of {counted(size, 'parameter')}, computed in float32 by transformers"
    if model.origin is None:
        yield f"{what}. What it was trained on is not known to gpt1_jax, which converted it.\n"
    else:
        stage = "pre-trained" if model.origin.config.finetune is None else "fine-tuned"
        yield f"{what}, {stage} with gpt1_jax; the weights are those of step {model.origin.step:,}.\n"
    yield "| layers | width | heads | hidden units | context | pieces |"
    yield "|---|---|---|---|---|---|"
    sizes = (
        config.num_layers,
        config.d_model,
        config.num_heads,
        config.d_ff,
        config.context_length,
        model.rows,
    )
    yield f"| {' | '.join(f'{size:,}' for size in sizes)} |\n"


def _how_to_load(architecture: str) -> str:
    return f"""## How to load it

```python
from transformers import AutoTokenizer, {architecture}

model = {architecture}.from_pretrained("DIRECTORY")
tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")
```
"""


def _of_run(origin: Origin) -> Iterator[str]:
    """Yields the sections on training and scores."""
    yield "## Training\n"
    yield "".join(f"- {line}\n" for line in _training(origin))
    yield "## Scores\n"
    scores = origin.scores()
    if not scores:
        yield "No evaluation of this step is recorded.\n"
        return
    yield f"On the held-out part of {origin.data}:\n"
    interval = scores.pop("interval", None)
    yield "| metric | value |\n|---|---|\n" + "".join(
        f"| {name} | {value:.4g} |\n" for name, value in scores.items()
    )
    if interval is not None:
        metric = next(iter(scores))
        low, high = interval
        yield f"95 % of resampled examples give a value of {metric} from {low:.4g} to {high:.4g}.\n"


def _training(origin: Origin) -> Iterator[str]:
    config = origin.config
    train, rule = config.train, config.optimizer
    yield f"data: {origin.data}"
    if text := origin.run.identity().get("text"):
        yield f"fingerprint of the tokenized data: `{text}`"
    yield f"tokenizer: {config.data.tokenizer}"
    if config.init_from is not None:
        yield f"started from: {config.init_from}"
    if origin.step and config.finetune is None:
        tokens = origin.step * train.batch_size * config.model.context_length
        taken = f"{counted(origin.step, 'step')} of {counted(train.batch_size, 'window')}"
        yield f"{taken}: {counted(tokens, 'token')} seen"
    elif origin.step:
        yield f"{counted(origin.step, 'step')} of about {counted(train.batch_size, 'example')}"
    if origin.step:
        yield (
            f"{rule.name}, learning rate {rule.learning_rate:g}, schedule {rule.schedule}, {config.model.dtype}, "
            f"seed {config.seed}"
        )


def _files(origin: Origin | None, directory: Path) -> str:
    """Returns the section by which others verify the files."""
    digest = hashlib.sha256()
    with (directory / SAFETENSORS).open("rb") as file:
        while part := file.read(2**22):
            digest.update(part)
    lines = ["## Checksums\n", f"`{SAFETENSORS}` has the SHA-256 `{digest.hexdigest()}`.\n"]
    sums = {} if origin is None else ledger.read(origin.run.directory).get(origin.step, {})
    if sums:
        lines += [
            "The run's ledger has these checksums of the arrays of this step, as gpt1_jax keeps them:\n",
            "```json",
            json.dumps(sums, indent=1),
            "```\n",
        ]
    return "\n".join(lines)
