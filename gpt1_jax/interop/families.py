"""The families of models that other programs know, a table each: tensors, and keys of config.json, beside ours.

The layouts are transformers'. A matrix of GPT-1 and GPT-2 is [in, out], and one of BERT [out, in].
"""

from gpt1_jax.config import ModelConfig
from gpt1_jax.interop.family import Family, Projection, Weight


def _norm(name: str, ours: str) -> list[Weight]:
    return [Weight(f"{name}.weight", f"{ours}_scale"), Weight(f"{name}.bias", f"{ours}_bias")]


def _dense(name: str, ours: str, part: Projection | None = None, transposed: bool = False) -> list[Weight]:
    return [
        Weight(f"{name}.weight", f"{ours}_kernel", part, transposed),
        Weight(f"{name}.bias", f"{ours}_bias", part, transposed),
    ]


_GPT_BLOCK = (
    *_dense("h.{}.attn.c_attn", "blocks.qkv"),
    *_dense("h.{}.attn.c_proj", "blocks.out"),
    *_norm("h.{}.ln_1", "blocks.norm_1"),
    *_dense("h.{}.mlp.c_fc", "blocks.mlp_in"),
    *_dense("h.{}.mlp.c_proj", "blocks.mlp_out"),
    *_norm("h.{}.ln_2", "blocks.norm_2"),
)
_GPT_SIZES = {
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_embd": "d_model",
    "n_positions": "context_length",
}
_GPT_RATES = {
    "embd_pdrop": ("embedding_dropout",),
    "attn_pdrop": ("attention_dropout",),
    "resid_pdrop": ("residual_dropout",),
}
# transformers' names of activations, in all families but GPT-1's.
_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "silu": "swish",
    "swish": "swish",
}

GPT1 = Family(
    model_type="openai-gpt",
    title="GPT-1",
    architecture="OpenAIGPTLMHeadModel",
    prefix="transformer.",
    outer=(Weight("positions_embed.weight", "positions"), Weight("tokens_embed.weight", "tokens")),
    block=_GPT_BLOCK,
    sizes=_GPT_SIZES,
    always_four=True,
    epsilon=("layer_norm_epsilon", 1e-5),
    rates=_GPT_RATES,
    activation="afn",
    # The names are the authors'.
    activations={"gelu": "gelu_tanh", "relu": "relu", "silu": "swish", "swish": "swish"},
    copies={"lm_head.weight": "tokens_embed.weight"},
)

GPT2 = Family(
    model_type="gpt2",
    title="GPT-2",
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    outer=(
        Weight("wte.weight", "tokens"),
        Weight("wpe.weight", "positions"),
        *_norm("ln_f", "final_norm"),
    ),
    block=_GPT_BLOCK,
    sizes=_GPT_SIZES,
    epsilon=("layer_norm_epsilon", 1e-5),
    rates=_GPT_RATES,
    activation="activation_function",
    activations=_ACTIVATIONS,
    ours={"norm": "pre"},
    theirs={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    copies={"lm_head.weight": "wte.weight"},
)

_LAYER = "encoder.layer.{}."
BERT = Family(
    model_type="bert",
    title="BERT",
    architecture="BertForMaskedLM",
    prefix="bert.",
    outer=(
        Weight("embeddings.word_embeddings.weight", "tokens"),
        Weight("embeddings.position_embeddings.weight", "positions"),
        Weight("embeddings.token_type_embeddings.weight", "token_types"),
        *_norm("embeddings.LayerNorm", "embedding_norm"),
        *_dense("pooler.dense", "pooler", transposed=True),
        *_dense("cls.predictions.transform.dense", "transform", transposed=True),
        *_norm("cls.predictions.transform.LayerNorm", "transform_norm"),
        Weight("cls.predictions.bias", "output_bias"),
    ),
    block=(
        *_dense(f"{_LAYER}attention.self.query", "blocks.qkv", part="query", transposed=True),
        *_dense(f"{_LAYER}attention.self.key", "blocks.qkv", part="key", transposed=True),
        *_dense(f"{_LAYER}attention.self.value", "blocks.qkv", part="value", transposed=True),
        *_dense(f"{_LAYER}attention.output.dense", "blocks.out", transposed=True),
        *_norm(f"{_LAYER}attention.output.LayerNorm", "blocks.norm_1"),
        *_dense(f"{_LAYER}intermediate.dense", "blocks.mlp_in", transposed=True),
        *_dense(f"{_LAYER}output.dense", "blocks.mlp_out", transposed=True),
        *_norm(f"{_LAYER}output.LayerNorm", "blocks.norm_2"),
    ),
    sizes={
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "hidden_size": "d_model",
        "max_position_embeddings": "context_length",
        "type_vocab_size": "token_types",
    },
    hidden="intermediate_size",
    epsilon=("layer_norm_eps", 1e-12),
    rates={
        "hidden_dropout_prob": ("embedding_dropout", "residual_dropout"),
        "attention_probs_dropout_prob": ("attention_dropout",),
    },
    activation="hidden_act",
    activations={"gelu": "gelu"} | _ACTIVATIONS,
    ours={"causal": False, "embedding_norm": True},
    theirs={"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    copies={
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    older={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    optional={
        "pooler": ("pooler_kernel", "pooler_bias"),
        "output of the masked language model": (
            *("transform_kernel", "transform_bias", "transform_norm_scale", "transform_norm_bias"),
            "output_bias",
        ),
    },
    bare=("cls.",),
)

FAMILIES = (GPT1, GPT2, BERT)


def family_of(config: ModelConfig) -> Family:
    """Returns the family whose tensors a model has; `Family.misfit` says whether its table tells all of the model."""
    if not config.causal:
        return BERT
    return GPT2 if config.norm == "pre" else GPT1
