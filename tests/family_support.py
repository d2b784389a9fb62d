"""Small GPT-2s and BERTs with random parameters, and the same as transformers has them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support import tiny_model, use_mesh
from torch_support import torch_names

from gpt1_jax.config import ModelConfig
from gpt1_jax.data.batches import Batch
from gpt1_jax.model.transformer import Transformer

VOCAB = 101  # of a table of 128 rows
LENGTH, LENGTHS = 13, np.array([13, 7, 10, 1, 13, 12, 4, 8])
GPT2 = {"norm": "pre"}
BERT = {
    "norm_epsilon": 1e-12,
    "activation": "gelu",
    "causal": False,
    "token_types": 2,
    "embedding_norm": True,
}


def gpt2(**settings: Any) -> ModelConfig:
    return tiny_model(**GPT2 | settings)


def bert(**settings: Any) -> ModelConfig:
    return tiny_model(**BERT | settings)


def shapes(config: ModelConfig, vocab_size: int = VOCAB) -> Any:
    """The shapes of the parameters."""
    model, tokens = Transformer(config, vocab_size), jnp.zeros((1, 1), jnp.int32)
    with use_mesh():
        return jax.eval_shape(lambda: nn.unbox(model.init(jax.random.key(0), tokens)["params"]))


def random_params(config: ModelConfig) -> Any:
    """Parameters without a zero or a one among them, so large that attention is far from even; padding is zero."""
    generator = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        values = generator.normal(1.0 if name.endswith("scale") else 0.0, 0.2, leaf.shape)
        if name in ("tokens", "output_bias"):
            values[VOCAB:] = 0
        return values.astype(np.float32)

    return jax.tree.map_with_path(fill, shapes(config))


def random_batch(config: ModelConfig) -> Batch:
    """Sequences to learn from; those of a BERT have padding, two types, and few positions that count."""
    generator, shape = np.random.default_rng(1), (len(LENGTHS), 1, LENGTH)
    tokens, targets = generator.integers(0, VOCAB, (2, *shape), np.int32)
    noise, update = generator.integers(0, 2**32, shape[:2], np.uint32), np.full(len(LENGTHS), 7, np.uint32)
    if config.causal:
        targets = np.roll(tokens, -1, -1)
        weights = np.full(shape, 1 / (len(LENGTHS) * (LENGTH - 1)), np.float32)
        weights[..., -1] = 0
        return Batch(tokens, targets, weights, noise, update)
    real = np.arange(LENGTH) < LENGTHS[:, None, None]
    chosen = real & (generator.uniform(size=shape) < 0.4)
    weights = np.where(chosen, 1 / chosen.sum(), 0).astype(np.float32)
    types = generator.integers(0, 2, shape, np.int32)
    return Batch(tokens, targets, weights, noise, update, types, np.where(real, 0, -1).astype(np.int32))


def published(config: ModelConfig, trunk: Any) -> dict[str, np.ndarray]:
    """A trunk's parameters, or their gradients, by the names and in the shapes of transformers."""
    return torch_names(trunk, VOCAB) if config.causal else bert_names(trunk)


def bert_names(trunk: Any) -> dict[str, np.ndarray]:
    """A BERT's parameters by the names of BertForMaskedLM, and those of the pooler, which that lacks."""
    arrays = {
        "bert.embeddings.word_embeddings.weight": trunk["tokens"][:VOCAB],
        "bert.embeddings.position_embeddings.weight": trunk["positions"],
        "bert.embeddings.token_type_embeddings.weight": trunk["token_types"],
        "bert.embeddings.LayerNorm.weight": trunk["embedding_norm_scale"],
        "bert.embeddings.LayerNorm.bias": trunk["embedding_norm_bias"],
        "bert.pooler.dense.weight": trunk["pooler_kernel"].T,
        "bert.pooler.dense.bias": trunk["pooler_bias"],
        "cls.predictions.transform.dense.weight": trunk["transform_kernel"].T,
        "cls.predictions.transform.dense.bias": trunk["transform_bias"],
        "cls.predictions.transform.LayerNorm.weight": trunk["transform_norm_scale"],
        "cls.predictions.transform.LayerNorm.bias": trunk["transform_norm_bias"],
        "cls.predictions.bias": trunk["output_bias"][:VOCAB],
    }
    blocks, width = trunk["blocks"], trunk["tokens"].shape[1]
    for layer in range(len(blocks["out_kernel"])):
        block = {name: np.asarray(array[layer]) for name, array in blocks.items()}
        parts = {
            "attention.output.dense.weight": block["out_kernel"].reshape(width, width).T,
            "attention.output.dense.bias": block["out_bias"],
            "attention.output.LayerNorm.weight": block["norm_1_scale"],
            "attention.output.LayerNorm.bias": block["norm_1_bias"],
            "intermediate.dense.weight": block["mlp_in_kernel"].T,
            "intermediate.dense.bias": block["mlp_in_bias"],
            "output.dense.weight": block["mlp_out_kernel"].T,
            "output.dense.bias": block["mlp_out_bias"],
            "output.LayerNorm.weight": block["norm_2_scale"],
            "output.LayerNorm.bias": block["norm_2_bias"],
        }
        for place, name in enumerate(("query", "key", "value")):
            parts[f"attention.self.{name}.weight"] = block["qkv_kernel"][:, place].reshape(width, width).T
            parts[f"attention.self.{name}.bias"] = block["qkv_bias"][place].reshape(width)
        arrays |= {f"bert.encoder.layer.{layer}.{name}": array for name, array in parts.items()}
    return {name: np.array(array) for name, array in arrays.items()}


def reference(config: ModelConfig, params: Any, name: str) -> Any:
    """transformers' model of a class such as BertForMaskedLM with these parameters, without dropout."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
    if config.causal:
        settings = transformers.GPT2Config(
            vocab_size=VOCAB,
            n_positions=config.context_length,
            n_embd=config.d_model,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            n_inner=config.d_ff,
            bos_token_id=None,
            eos_token_id=None,
        )
    else:
        settings = transformers.BertConfig(
            vocab_size=VOCAB,
            max_position_embeddings=config.context_length,
            hidden_size=config.d_model,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.d_ff,
            hidden_act={"gelu": "gelu", "gelu_tanh": "gelu_new"}[config.activation],
        )
    model = getattr(transformers, name)(settings).eval()
    arrays = {name: torch.from_numpy(array) for name, array in published(config, params).items()}
    if not any(part.startswith("bert.") for part in model.state_dict()):
        arrays = {name.removeprefix("bert."): array for name, array in arrays.items()}
    missing = model.load_state_dict(arrays, strict=False).missing_keys
    assert all(
        part in ("lm_head.weight", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
        for part in missing
    )
    return model
