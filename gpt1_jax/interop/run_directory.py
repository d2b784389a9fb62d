"""Run directories: reads any run, and writes another program's model as a run that training can start from.

Letters: L layers, D width, H heads, K head width, V the tokenizer's pieces.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.arguments import Step
from gpt1_jax.config import Config, DataConfig, ModelConfig, schema
from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.gpt1 import OpenAITokenizer
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.interop.published import POSITIONS, SIZES, TOKENS, LanguageModel, TaskHead, weight_shapes
from gpt1_jax.model.embedding import table_rows
from gpt1_jax.model.specials import special_ids
from gpt1_jax.overrides import flatten, from_dict, to_dict
from gpt1_jax.run import Run
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.usage.trained import TrainedRun

_BLOCK = {
    "attn.c_attn.weight": "qkv_kernel",
    "attn.c_attn.bias": "qkv_bias",
    "attn.c_proj.weight": "out_kernel",
    "attn.c_proj.bias": "out_bias",
    "ln_1.weight": "norm_1_scale",
    "ln_1.bias": "norm_1_bias",
    "mlp.c_fc.weight": "mlp_in_kernel",
    "mlp.c_fc.bias": "mlp_in_bias",
    "mlp.c_proj.weight": "mlp_out_kernel",
    "mlp.c_proj.bias": "mlp_out_bias",
    "ln_2.weight": "norm_2_scale",
    "ln_2.bias": "norm_2_bias",
}
_TOKENIZERS = {SentencePieceTokenizer: "sentencepiece", OpenAITokenizer: "openai", NoTokenizer: "none"}


def read_run(directory: str, step: Step | None = None) -> LanguageModel:
    """Reads a checkpoint of a run, see `gpt1_jax.load`, with its head if the run was fine-tuned.

    Raises:
        UserError: there is no run or no sound checkpoint, or the model is not GPT-1 of some size.
    """
    values = flatten(to_dict(Run(directory).config()))
    for name, key in schema().items():
        if key.architecture and name not in (*SIZES, "model.activation") and values[name] != key.default:
            raise UserError(
                f"{directory} has {name}={values[name]}, which no other format can hold; name a run with "
                f"{name}={key.default}."
            )
    trained = TrainedRun(directory, step)
    trunk, rows = jax.device_get(trained.trunk_params), trained.tokenizer.vocab_size
    head, settings = None, trained.config.finetune
    if trained.task is not None and settings is not None:
        kernel, bias = (np.asarray(trained.params["head"][name]) for name in ("kernel", "bias"))
        specials = trunk["tokens"][list(special_ids(rows))]
        head = TaskHead(trained.task, specials, kernel, bias, settings.classifier_dropout)
    config = trained.config.model
    return LanguageModel(config, published_weights(config, trunk, rows), trained.tokenizer, head)


def write_run(model: LanguageModel, directory: Path, origin: str) -> None:
    """Writes a run that ended at step 0, with the paper's settings for pre-training.

    The run has neither text nor optimizer state. Training cannot resume it, but can start from it with init_from.

    Args:
        model: the model, whose head is left out.
        directory: where to write; it need not exist.
        origin: the format the model came from, named in place of `data.source`.

    Raises:
        UserError: no run can have a model of this size.
    """
    config, run = _make_config(model, origin), Run(str(directory))
    run.record(config, {"tokenizer": model.tokenizer.fingerprint()})
    model.tokenizer.save(run.tokenizer)
    state = {"step": np.zeros((), np.int32), "params": _stack(model)}
    checkpoints = Checkpoints(run.checkpoints, keep=config.train.keep_checkpoints)
    try:
        checkpoints.save(0, jax.tree.map(jnp.asarray, state))
    finally:
        checkpoints.close()


def _make_config(model: LanguageModel, origin: str) -> Config:
    """Returns the model's config, checked, with the settings of the paper's section 4.1 for everything else."""
    data = DataConfig(
        # This is not a source, so the run can never be resumed in place.
        source=f"converted from {origin}",
        tokenizer=_TOKENIZERS[type(model.tokenizer)],
        vocab_size=model.tokenizer.vocab_size,
    )
    return from_dict(to_dict(Config(model=model.config, data=data)))


def published_weights(config: ModelConfig, params: Any, rows: int) -> dict[str, np.ndarray]:
    """Returns a trunk's parameters as the published tensors, without the padding of the token table."""
    weights = {}
    for name, shape in weight_shapes(config, rows):
        if name == TOKENS:
            array = params["tokens"][:rows]
        elif name == POSITIONS:
            array = params["positions"]
        else:
            _, layer, rest = name.split(".", 2)
            array = params["blocks"][_BLOCK[rest]][int(layer)]
        weights[name] = array.reshape(shape)
    return weights


def _stack(model: LanguageModel) -> dict[str, Any]:
    """Returns a trunk's parameters: blocks stacked [L, ...], and the token table padded with zeros."""
    config, weights = model.config, model.weights
    layers, width, heads = config.num_layers, config.d_model, config.num_heads
    split = {
        "qkv_kernel": (width, 3, heads, width // heads),
        "qkv_bias": (3, heads, width // heads),
        "out_kernel": (heads, width // heads, width),
    }

    def stack(name: str) -> np.ndarray:
        stacked = np.stack([weights[f"h.{layer}.{name}"] for layer in range(layers)])
        return stacked.reshape(layers, *split.get(_BLOCK[name], stacked.shape[1:]))

    rows = len(weights[TOKENS])
    tokens = np.pad(weights[TOKENS], [(0, table_rows(rows) - rows), (0, 0)])
    blocks = {ours: stack(name) for name, ours in _BLOCK.items()}
    return {"tokens": tokens, "positions": weights[POSITIONS], "blocks": blocks}
