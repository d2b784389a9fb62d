"""Run directories: reads any run, and writes another program's model as a run that training can start from.

Letters: L layers.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.arguments import Step
from gpt1_jax.config import Config, DataConfig, FinetuneConfig, ModelConfig
from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.gpt1 import OpenAITokenizer
from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.interop.families import family_of
from gpt1_jax.interop.family import BLOCKS, weight_key
from gpt1_jax.interop.published import LanguageModel, Origin, TaskHead
from gpt1_jax.model.embedding import table_rows
from gpt1_jax.model.specials import SPECIALS
from gpt1_jax.overrides import from_dict, to_dict
from gpt1_jax.run import Run, write_json
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.usage.trained import TrainedRun

_TOKENIZERS = {
    SentencePieceTokenizer: "sentencepiece",
    OpenAITokenizer: "openai",
    HuggingFaceTokenizer: "huggingface",
    NoTokenizer: "none",
}


def read_run(directory: str, step: Step | None = None) -> LanguageModel:
    """Reads a checkpoint of a run, see `gpt1_jax.load`, with its head if the run was fine-tuned.

    Raises:
        UserError: there is no run or no sound checkpoint, or no other format can hold the model.
    """
    config = Run(directory).config().model
    family = family_of(config)
    if found := family.misfit(config):
        name, expected = found
        raise UserError(
            f"{directory} has model.{name}={getattr(config, name)}, which no other format can hold, while a "
            f"{family.title} has {expected}; name a run with that."
        )
    trained = TrainedRun(directory, step)
    trunk, rows = jax.device_get(trained.trunk_params), trained.tokenizer.vocab_size
    head, settings = None, trained.config.finetune
    if trained.task is not None and settings is not None:
        # A task that is text has only its specials.
        none = {"kernel": np.zeros((config.d_model, 0), np.float32), "bias": np.zeros(0, np.float32)}
        layer = trained.params.get("head", none)
        kernel, bias = (np.asarray(layer[name]) for name in ("kernel", "bias"))
        specials = trunk["tokens"][rows : rows + (SPECIALS if config.causal else 0)]
        head = TaskHead(trained.task, specials, kernel, bias, settings.classifier_dropout)
    origin = Origin(trained.run, trained.step)
    return LanguageModel(config, _unstack(config, trunk, rows), trained.tokenizer, head, origin=origin)


def write_run(model: LanguageModel, directory: Path, origin: str) -> None:
    """Writes a run that ended at step 0, with the paper's settings; if the model has a head, it is a fine-tuned run.

    The run has neither data nor optimizer state. Training cannot resume it, but can start from it with init_from.

    Args:
        model: the model.
        directory: where to write; it need not exist.
        origin: the format the model came from, named in place of `data.source`.

    Raises:
        UserError: no run can have a model of this size.
    """
    config, run = _make_config(model, origin), Run(str(directory))
    run.record(config, {"tokenizer": model.tokenizer.fingerprint()})
    model.tokenizer.save(run.tokenizer)
    if model.head is not None:
        write_json(run.directory / "task.json", model.head.task.to_dict())
    state = {"step": np.zeros((), np.int32), "params": _params(model)}
    checkpoints = Checkpoints(run.checkpoints, keep=config.train.keep_checkpoints)
    try:
        checkpoints.save(0, jax.tree.map(jnp.asarray, state))
    finally:
        checkpoints.close()


def _make_config(model: LanguageModel, origin: str) -> Config:
    """Returns the model's config, checked, with the paper's settings for everything else."""
    # This is not a source, so the run can never be resumed in place.
    nowhere = f"converted from {origin}"
    tokenizer = _TOKENIZERS[type(model.tokenizer)]
    data = DataConfig(source=nowhere, tokenizer=tokenizer, vocab_size=model.tokenizer.vocab_size)
    config, head = Config(model=model.config, data=data), model.head
    if head is not None:
        scores = "regression" if head.task.score_range and len(head.bias) == 1 else "classes"
        finetune = FinetuneConfig(
            head.task.name, kind=head.task.kind, scores=scores, classifier_dropout=head.dropout_rate
        )
        config = dataclasses.replace(config, init_from=nowhere, finetune=finetune)
    return from_dict(to_dict(config))


def published_weights(config: ModelConfig, params: Any, rows: int) -> dict[str, np.ndarray]:
    """Returns a trunk's parameters as the tensors of its family, by their names there."""
    weights = _unstack(config, params, rows)
    return {
        place.name: place.weight.published(weights[place.key])
        for place in family_of(config).places(config, rows)
    }


def _unstack(config: ModelConfig, params: Any, rows: int) -> dict[str, np.ndarray]:
    """Returns a trunk's parameters, a layer at a time and without padding behind the first `rows` pieces."""
    weights = {}
    for place in family_of(config).places(config, rows):
        name = place.weight.ours
        if place.layer is not None:
            weights[place.key] = params["blocks"][name.removeprefix(BLOCKS)][place.layer]
        else:
            weights[place.key] = params[name][:rows] if place.weight.padded else params[name]
    return weights


def _params(model: LanguageModel) -> dict[str, Any]:
    """Returns the parameters of a trunk or, if there is a head, of a classifier."""
    trunk, head = _stack(model), model.head
    if head is None:
        return trunk
    trunk["tokens"][model.rows : model.rows + len(head.specials)] = head.specials
    # A task that is text has no layer.
    layer = {"head": {"kernel": head.kernel, "bias": head.bias}} if head.bias.size else {}
    return {"trunk": trunk, **layer}


def _stack(model: LanguageModel) -> dict[str, Any]:
    """Returns a trunk's parameters: blocks stacked [L, ...], and what has a row for each piece padded with zeros."""
    weights, layers = model.weights, range(model.config.num_layers)
    padding = table_rows(model.rows) - model.rows
    params: dict[str, Any] = {"blocks": {}}
    for weight in model.family.outer:
        array = weights[weight.ours]
        room = [(0, padding), *[(0, 0)] * (array.ndim - 1)]
        params[weight.ours] = np.pad(array, room) if weight.padded else array
    for name in dict.fromkeys(weight.ours for weight in model.family.block):
        stacked = np.stack([weights[weight_key(name, layer)] for layer in layers])
        params["blocks"][name.removeprefix(BLOCKS)] = stacked
    return params
