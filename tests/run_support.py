"""Run directories of tiny models with random parameters, made in this process: nothing is trained."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from support import tiny_config, use_mesh

from gpt1_jax.config import FinetuneConfig
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.data.tokenizers.sentencepiece import train_sentencepiece
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.run import Run
from gpt1_jax.tasks.classifier import make_classifier
from gpt1_jax.tasks.task import Task
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.state import abstract_params

WORDS = [
    "river",
    "stone",
    "light",
    "under",
    "morning",
    "carries",
    "the",
    "a",
    "old",
    "song",
    "finds",
    "again",
]


def make_run(directory: Path, task: Task | None = None, **overrides: Any) -> Path:
    """A run that ended at step 0; with a task one that was fine-tuned on it. Overrides are dotted keys."""
    tokenizer = train_sentencepiece(iter([" ".join(WORDS * 20) + "\n"]), 300)
    if task is not None:
        overrides = {"finetune.task": task.name, "finetune.kind": task.kind} | overrides
    config = tiny_config(**{"data.vocab_size": 300, "data.cache_dir": str(directory / "cache")} | overrides)
    return save_run(directory / "run", config, tokenizer, task)


def save_run(directory: Path, config: Any, tokenizer: Tokenizer, task: Task | None) -> Path:
    """Writes all files of a run with random parameters, so large that the model is neither sure nor even."""
    run = Run(str(directory))
    files = {} if task is None else {"task.json": task.to_dict()}
    run.record(config, {"tokenizer": tokenizer.fingerprint()}, files=files)
    tokenizer.save(run.tokenizer)
    if task is None:
        model = make_trunk(config.model, tokenizer.vocab_size)
    else:
        assert isinstance(config.finetune, FinetuneConfig)
        model = make_classifier(config.model, config.finetune, task, tokenizer.vocab_size)
    generator = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        center = 1.0 if "scale" in str(path[-1]) else 0.0
        return jnp.asarray(generator.normal(center, 0.2, leaf.shape), leaf.dtype)

    with use_mesh() as mesh:
        params = jax.tree.map_with_path(fill, abstract_params(model, mesh))
        checkpoints = Checkpoints(run.checkpoints, keep=1)
        checkpoints.save(0, {"step": jnp.zeros((), jnp.int32), "params": params})
        checkpoints.close()
    return directory
