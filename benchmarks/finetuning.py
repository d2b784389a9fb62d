"""Examples a second of fine-tuning beside transformers: python -m benchmarks.finetuning [--preset=tiny].

It needs torch and transformers. All sides have the same random weights, examples, auxiliary language model and AdamW,
in float32 with dropout, and a process each. transformers' model has the same head, and its batches are padded to the
widths of our buckets, to the longest example of the task, and to the context. First, three steps without dropout check
that all have the same losses. The batches are spread evenly over an epoch's widths.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch
from absl import flags
from jax.sharding import Mesh
from torch.nn import functional as F

from benchmarks.apart import SERVE, Apart, compare_losses, serve
from benchmarks.peers import check_devices, load_named, make_transformers, make_update
from benchmarks.settings import find_preset
from benchmarks.timing import conclude, measure
from configs import finetune
from gpt1_jax.config import Config, MeshConfig
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.tokenizers.opening import Tokenizer, open_tokenizer
from gpt1_jax.devices.mesh import make_mesh, place_rows, use
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.huge_pages import use_huge_pages
from gpt1_jax.interop.run_directory import published_weights
from gpt1_jax.tasks.batches import TaskBatch, TaskBatches
from gpt1_jax.tasks.classifier import Classifier, make_classifier
from gpt1_jax.tasks.encoding import encode_examples
from gpt1_jax.tasks.grouping import Grouping
from gpt1_jax.tasks.reading import read_task
from gpt1_jax.tasks.task import Task
from gpt1_jax.training.objectives import finetuning_loss
from gpt1_jax.training.trainer import Trainer

SIDES = ("gpt1_jax", "transformers: buckets", "transformers: longest", "transformers: context")

_PRESET = flags.DEFINE_string("preset", "", "a preset of configs/pretrain.py; by default the paper's")
_TASKS = flags.DEFINE_list("tasks", ["demo_entailment", "demo_same_verse"], "TASK or TASK:SOURCE")
_TOKENIZER = flags.DEFINE_string("tokenizer", "sentencepiece", "as data.tokenizer; trained on the demo text")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 0, "pieces trained; by default the preset's", 0)
_CACHE_DIR = flags.DEFINE_string("cache_dir", "~/.cache/gpt1_jax", "the directory of the tokenized demo text")
_BATCH = flags.DEFINE_integer("batch", 0, "examples a batch; by default 32, and 4 with the paper's model", 0)
_BATCHES = flags.DEFINE_integer("batches", 4, "batches in a round", 1)
_SIDES = flags.DEFINE_list("sides", list(SIDES), f"of {', '.join(SIDES)}")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "rounds of timing", 1)

# The fields that only our dropout reads.
_SEEDS = ("noise", "update")
_CHECKED_STEPS = 3
_TOLERANCE = 1e-3

Step = Callable[[TaskBatch], float]  # takes a training step, returns the loss before the update


def main(_: list[str]) -> None:
    """Prints lines for each task, then the same in JSON.

    Raises:
        UserError: --sides names something else.
    """
    if unknown := set(_SIDES.value) - set(SIDES):
        raise UserError(f"--sides={unknown.pop()} is not a side; choose of {', '.join(SIDES)}.")
    if SERVE.value is not None:
        check_devices()
        _serve(SERVE.value, *_settings(_TASKS.value[0]))
        return
    facts = [_measure_task(spec) for spec in _TASKS.value]
    conclude(preset=_PRESET.value, tasks=facts)


def _measure_task(spec: str) -> dict[str, Any]:
    """Prints a line for each side, and returns the same."""
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(Apart("benchmarks.finetuning", name, f"--tasks={spec}"))
            for name in _SIDES.value
        }
        compare_losses({name: side.ready["losses"] for name, side in sides.items()}, _TOLERANCE)
        facts = next(iter(sides.values())).ready
        widths, mean_width = facts["widths"], facts["mean_width"]
        print(f"{spec}: buckets {widths} of the mean {mean_width:.0f} in an epoch", flush=True)
        rows = measure(sides, _ROUNDS.value, facts["examples"], "examples")
    for row in rows:
        print(row, flush=True)
    return facts | {"rows": [dataclasses.asdict(row) for row in rows]}


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


def _serve(side: str, config: Config, source: str) -> None:
    """Is the process of a side, which is ready with the facts of its batches and its losses without dropout."""
    settings, length = config.finetune, config.model.context_length
    assert settings is not None
    tokenizer = _open_tokenizer()
    data = read_task(settings, dataclasses.replace(config.data, source=source))
    examples = encode_examples(data.task, data.train, tokenizer, length, settings.scores)
    grouping = Grouping(settings.batching, settings.remainder, config.train.batch_size)
    batches, mean_width = _spread(TaskBatches(examples, grouping, seed=0), _BATCHES.value)
    facts = {
        "task": data.task.name,
        "batch": config.train.batch_size,
        "vocab_size": tokenizer.vocab_size,
        "widths": [batch.tokens.shape[-1] for batch in batches],
        "mean_width": mean_width,
        "examples": sum(int((batch.label_weights > 0).sum()) for batch in batches),
    }
    if side == "transformers: longest":
        batches = _pad(batches, int(examples.lengths().max()))
    elif side == "transformers: context":
        batches = _pad(batches, length)
    make = _make_step if side == "gpt1_jax" else _make_peer
    step = make(_without_dropout(config), data.task, tokenizer.vocab_size)
    losses = [step(batches[number % len(batches)]) for number in range(_CHECKED_STEPS)]
    del step  # its state is as large as the next one's
    step = make(config, data.task, tokenizer.vocab_size)
    serve(facts | {"losses": losses}, lambda: [step(batch) for batch in batches])


def _open_tokenizer() -> Tokenizer:
    data = find_preset(_PRESET.value).data
    vocab_size = _VOCAB_SIZE.value or data.vocab_size
    demo = dataclasses.replace(data, source="demo", vocab_size=vocab_size, cache_dir=_CACHE_DIR.value or "")
    return open_tokenizer(_TOKENIZER.value) or corpora.prepare(demo).tokenizer


def _without_dropout(config: Config) -> Config:
    assert config.finetune is not None
    dropouts = {f"{place}_dropout": 0.0 for place in ("embedding", "attention", "residual")}
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **dropouts),
        finetune=dataclasses.replace(config.finetune, classifier_dropout=0.0),
    )


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


# ── Sides ────────────────────────────────────────────────────────────────────────────────────────────────────


def _make_step(config: Config, task: Task, vocab_size: int) -> Step:
    """Returns our training step."""
    mesh, trainer, _ = _make_trainer(config, task, vocab_size)
    state = trainer.init(config.seed)

    def step(batch: TaskBatch) -> float:
        nonlocal state
        with use(mesh):
            placed = place_rows(lambda start, stop: batch, len(batch.tokens), mesh)
            state, metrics = trainer.step(state, placed)
        return float(metrics["loss"])

    return step


def _make_peer(config: Config, task: Task, vocab_size: int) -> Step:
    """Returns that of transformers, from the weights that ours begins with."""
    _, trainer, model = _make_trainer(config, task, vocab_size)
    assert model.head is not None
    params = jax.device_get(trainer.init(config.seed).params)
    peer = TorchClassifier(config, model.head.pooling, params, model.extract).train()
    update = make_update(peer, config.optimizer)

    def step(batch: TaskBatch) -> float:
        arrays = {name: x for name, x in batch._asdict().items() if x is not None}
        return update(peer({name: torch.tensor(x) for name, x in arrays.items() if name not in _SEEDS}))

    return step


def _make_trainer(config: Config, task: Task, vocab_size: int) -> tuple[Mesh, Trainer, Classifier]:
    assert config.finetune is not None
    mesh = make_mesh(MeshConfig(1, 1, 1))
    model = make_classifier(config.model, config.finetune, task, vocab_size)
    objective = finetuning_loss(model, config.finetune.auxiliary_weight, regression=False)
    return mesh, Trainer.make(model, objective, mesh, config.optimizer, config.train), model


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
