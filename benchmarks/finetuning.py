"""Examples a second of fine-tuning beside transformers: python -m benchmarks.finetuning [--preset=tiny].

It needs torch and transformers. Both sides have the same random weights, examples, auxiliary language model and AdamW,
in float32 with dropout. transformers' model has the same head, and its batches are padded to the widths of our buckets,
to the longest example of the task, and to the context. First, three steps without dropout check that all have the same
losses. The batches are spread evenly over an epoch's widths. Rounds are interleaved, after one that warms up.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch
from absl import flags
from torch.nn import functional as F

from benchmarks.peers import check_devices, load_named, make_transformers, make_update
from benchmarks.settings import find_preset
from benchmarks.timing import conclude, measure
from configs import finetune
from gpt1_jax.config import Config, MeshConfig
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.tokenizers.opening import Tokenizer, open_tokenizer
from gpt1_jax.devices.mesh import make_mesh, place_rows, use
from gpt1_jax.door import door
from gpt1_jax.errors import Fault
from gpt1_jax.huge_pages import use_huge_pages
from gpt1_jax.interop.run_directory import published_weights
from gpt1_jax.tasks.batches import TaskBatch, TaskBatches
from gpt1_jax.tasks.classifier import make_classifier
from gpt1_jax.tasks.encoding import encode_examples
from gpt1_jax.tasks.grouping import Grouping
from gpt1_jax.tasks.reading import read_task
from gpt1_jax.tasks.task import Task
from gpt1_jax.training.objectives import finetuning_loss
from gpt1_jax.training.trainer import Trainer

_PRESET = flags.DEFINE_string("preset", "", "a preset of configs/pretrain.py; by default the paper's")
_TASKS = flags.DEFINE_list("tasks", ["demo_entailment", "demo_same_verse"], "TASK or TASK:SOURCE")
_TOKENIZER = flags.DEFINE_string("tokenizer", "sentencepiece", "as data.tokenizer; trained on the demo text")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 0, "pieces trained; by default the preset's", 0)
_CACHE_DIR = flags.DEFINE_string("cache_dir", "~/.cache/gpt1_jax", "the directory of the tokenized demo text")
_BATCH = flags.DEFINE_integer("batch", 0, "examples a batch; by default 32, and 4 with the paper's model", 0)
_BATCHES = flags.DEFINE_integer("batches", 4, "batches in a round", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "rounds of timing", 1)

# The fields that only our dropout reads.
_SEEDS = ("noise", "update")
_CHECKED_STEPS = 3
_TOLERANCE = 1e-3

Step = Callable[[TaskBatch], float]  # takes a training step, returns the loss before the update


def main(_: list[str]) -> None:
    """Prints lines for each task, then the same in JSON."""
    check_devices()
    data = find_preset(_PRESET.value).data
    vocab_size = _VOCAB_SIZE.value or data.vocab_size
    demo = dataclasses.replace(data, source="demo", vocab_size=vocab_size, cache_dir=_CACHE_DIR.value or "")
    tokenizer = open_tokenizer(_TOKENIZER.value) or corpora.prepare(demo).tokenizer
    facts = [_measure_task(*_settings(spec), tokenizer) for spec in _TASKS.value]
    conclude(preset=_PRESET.value, vocab_size=tokenizer.vocab_size, tasks=facts)


def _settings(spec: str) -> tuple[Config, str]:
    """Returns the config of a task's fine-tuning in float32 by AdamW at a constant rate, and the task's source."""
    task, _, source = spec.partition(":")
    config = finetune.paper(task)
    batch = _BATCH.value or (config.train.batch_size if _PRESET.value else 4)
    steady = {"name": "adamw", "warmup_fraction": 0.0, "total_steps": 10**9}
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(find_preset(_PRESET.value).model, dtype="float32"),
        train=dataclasses.replace(config.train, batch_size=batch),
        optimizer=dataclasses.replace(config.optimizer, **steady),
    )
    return config, source or ("demo" if task.startswith("demo_") else "tfds")


def _measure_task(config: Config, source: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """Prints a line for each side, and returns the same."""
    assert config.finetune is not None
    data = read_task(config.finetune, dataclasses.replace(config.data, source=source))
    task, length = data.task, config.model.context_length
    examples = encode_examples(task, data.train, tokenizer, length, config.finetune.scores)
    settings = config.finetune
    grouping = Grouping(settings.batching, settings.remainder, config.train.batch_size)
    batches, mean_width = _spread(TaskBatches(examples, grouping, seed=0), _BATCHES.value)
    longest = int(examples.lengths().max())
    widths = [batch.tokens.shape[-1] for batch in batches]
    print(f"{task.name}: buckets {widths} of the mean {mean_width:.0f} in an epoch", flush=True)

    paddings = {
        "transformers, buckets": batches,
        **{f"transformers, to {width}": _pad(batches, width) for width in (longest, length)},
    }
    _check(config, task, tokenizer.vocab_size, batches, paddings)
    ours, theirs = _make_steps(config, task, tokenizer.vocab_size)
    sides = {"gpt1_jax": lambda: [ours(batch) for batch in batches]} | {
        name: lambda padded=padded: [theirs(batch) for batch in padded] for name, padded in paddings.items()
    }
    count = sum(int((batch.label_weights > 0).sum()) for batch in batches)
    rows = measure(sides, _ROUNDS.value, count, "examples")
    for row in rows:
        print(row, flush=True)
    return {
        "task": task.name,
        "batch": config.train.batch_size,
        "widths": widths,
        "mean_width": mean_width,
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def _spread(batches: TaskBatches, count: int) -> tuple[list[TaskBatch], float]:
    """Returns batches spread evenly over an epoch's, ordered by width, and the epoch's mean width."""
    steps = range(batches.steps_per_epoch)
    widths = np.array([batches.rows(step, 0, 1).tokens.shape[-1] for step in steps])
    places = (np.arange(count) + 0.5) / count * len(widths)
    chosen = np.argsort(widths, kind="stable")[places.astype(int)]
    return [batches.rows(int(step), 0, batches.batch_size) for step in chosen], float(widths.mean())


def _pad(batches: Sequence[TaskBatch], width: int) -> list[TaskBatch]:
    """Returns the same batches, each sequence filled up with tokens of weight 0."""

    def fill(x: np.ndarray) -> np.ndarray:
        return np.pad(x, [(0, 0), (0, 0), (0, width - x.shape[-1])])

    return [
        b._replace(tokens=fill(b.tokens), targets=fill(b.targets), weights=fill(b.weights)) for b in batches
    ]


def _check(
    config: Config,
    task: Task,
    vocab_size: int,
    batches: list[TaskBatch],
    paddings: dict[str, list[TaskBatch]],
) -> None:
    """Checks that all sides have the same losses in some steps without dropout.

    Raises:
        Fault: they differ.
    """
    assert config.finetune is not None
    dropouts = {f"{place}_dropout": 0.0 for place in ("embedding", "attention", "residual")}
    still = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **dropouts),
        finetune=dataclasses.replace(config.finetune, classifier_dropout=0.0),
    )
    losses: dict[str, list[float]] = {}
    for name, padded in ({"gpt1_jax": batches} | paddings).items():
        step = _make_steps(still, task, vocab_size)[name != "gpt1_jax"]
        losses[name] = [step(padded[number % len(padded)]) for number in range(_CHECKED_STEPS)]
        told = ", ".join(f"{loss:.5f}" for loss in losses[name])
        print(f"{name:22} without dropout: loss {told}", flush=True)
        if not np.allclose(losses[name], losses["gpt1_jax"], rtol=_TOLERANCE, atol=0):
            raise Fault(f"{name} has other losses than gpt1_jax; the sides are not the same.")


# ── Sides ────────────────────────────────────────────────────────────────────────────────────────────────────


def _make_steps(config: Config, task: Task, vocab_size: int) -> tuple[Step, Step]:
    """Returns our step and transformers', from the same weights."""
    assert config.finetune is not None
    mesh = make_mesh(MeshConfig(1, 1, 1))
    model = make_classifier(config.model, config.finetune, task, vocab_size)
    objective = finetuning_loss(model, config.finetune.auxiliary_weight, regression=False)
    trainer = Trainer.make(model, objective, mesh, config.optimizer, config.train)
    state = trainer.init(config.seed)
    assert model.head is not None
    peer = TorchClassifier(config, model.head.pooling, jax.device_get(state.params), model.extract).train()
    update = make_update(peer, config.optimizer)

    def ours(batch: TaskBatch) -> float:
        nonlocal state
        with use(mesh):
            placed = place_rows(lambda start, stop: batch, len(batch.tokens), mesh)
            state, metrics = trainer.step(state, placed)
        return float(metrics["loss"])

    def theirs(batch: TaskBatch) -> float:
        arrays = {name: x for name, x in batch._asdict().items() if x is not None}
        return update(peer({name: torch.tensor(x) for name, x in arrays.items() if name not in _SEEDS}))

    return ours, theirs


class TorchClassifier(torch.nn.Module):
    """transformers' language model, and a linear layer on the state at the extract token."""

    def __init__(self, config: Config, pooling: str, params: Any, extract: int) -> None:
        """Takes the parameters of our classifier."""
        super().__init__()
        assert config.finetune is not None
        rows = extract + 1  # the last of the specials
        self.language_model = make_transformers(config.model, rows)
        load_named(self.language_model, published_weights(config.model, params["trunk"], rows))
        kernel, bias = (torch.tensor(params["head"][name]) for name in ("kernel", "bias"))
        self.head = torch.nn.Linear(kernel.shape[0], kernel.shape[1])
        self.head.load_state_dict({"weight": kernel.T, "bias": bias})
        self.dropout = torch.nn.Dropout(config.finetune.classifier_dropout)
        self.auxiliary_weight, self.pooling, self.extract = config.finetune.auxiliary_weight, pooling, extract

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns the loss of a TaskBatch's arrays, by their names."""
        flat = batch["tokens"].flatten(0, 1)
        hidden = self.language_model.transformer(flat).last_hidden_state
        logits = self.language_model.lm_head(hidden)
        losses = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten().long(), reduction="none")
        lm_loss = (losses * batch["weights"].flatten()).sum()
        ends = (flat == self.extract).int().argmax(-1)
        states = hidden[torch.arange(len(flat)), ends].view(*batch["tokens"].shape[:2], -1)
        states = states.sum(1, keepdim=True) if self.pooling == "sum" else states
        outputs = self.head(self.dropout(states)).flatten(1)[:, None]
        errors = -(batch["labels"] * F.log_softmax(outputs, -1)).sum(-1)
        return (errors * batch["label_weights"]).sum() + self.auxiliary_weight * lm_loss


if __name__ == "__main__":
    use_huge_pages()
    door(main)
