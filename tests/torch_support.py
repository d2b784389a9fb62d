"""Our parameters as transformers' OpenAIGPT and GPT2 name and shape them: the reference of the parity tests."""

from typing import Any

import numpy as np


def torch_names(trunk: Any, rows: int) -> dict[str, np.ndarray]:
    """A trunk's parameters under the names and in the shapes of OpenAIGPTLMHeadModel, with `rows` tokens.

    With a norm at its end it is named as GPT2LMHeadModel.
    """
    width = trunk["tokens"].shape[1]
    later = "final_norm_scale" in trunk
    tokens, positions = ("wte", "wpe") if later else ("tokens_embed", "positions_embed")
    arrays = {
        f"transformer.{tokens}.weight": trunk["tokens"][:rows],
        f"transformer.{positions}.weight": trunk["positions"],
    }
    if later:
        arrays["transformer.ln_f.weight"] = trunk["final_norm_scale"]
        arrays["transformer.ln_f.bias"] = trunk["final_norm_bias"]
    for ours, theirs, shape in (
        ("qkv_kernel", "attn.c_attn.weight", (width, 3 * width)),
        ("qkv_bias", "attn.c_attn.bias", (3 * width,)),
        ("out_kernel", "attn.c_proj.weight", (width, width)),
        ("out_bias", "attn.c_proj.bias", (width,)),
        ("norm_1_scale", "ln_1.weight", (width,)),
        ("norm_1_bias", "ln_1.bias", (width,)),
        ("mlp_in_kernel", "mlp.c_fc.weight", (width, -1)),
        ("mlp_in_bias", "mlp.c_fc.bias", (-1,)),
        ("mlp_out_kernel", "mlp.c_proj.weight", (-1, width)),
        ("mlp_out_bias", "mlp.c_proj.bias", (width,)),
        ("norm_2_scale", "ln_2.weight", (width,)),
        ("norm_2_bias", "ln_2.bias", (width,)),
    ):
        for layer, array in enumerate(trunk["blocks"][ours]):
            arrays[f"transformer.h.{layer}.{theirs}"] = array.reshape(shape)
    return {name: np.array(array) for name, array in arrays.items()}
