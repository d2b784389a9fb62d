"""The same decoder in PyTorch, written as the fastest plain implementations are: what the benchmarks compare with.

Fused attention (scaled_dot_product_attention), one matrix for queries, keys and values, tied output, no option. Its
weights are loaded by the published names, so that one set fits all.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gpt1_jax.config import ModelConfig

Caches = list[tuple[torch.Tensor, torch.Tensor] | None]


class Block(nn.Module):
    """n = norm(x + attention(x)), then norm(n + mlp(n))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, self.heads = config.d_model, config.num_heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp_in, self.mlp_out = nn.Linear(width, config.d_ff), nn.Linear(config.d_ff, width)

    def forward(self, x: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor] | None) -> Any:
        """x [B, T, D], and the keys and values so far → the same, one block on."""
        shape = (*x.shape[:2], self.heads, -1)
        query, key, value = (part.view(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if cache is not None:
            key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=cache is None)
        x = self.norm_1(x + self.out(attended.transpose(1, 2).reshape(x.shape)))
        return self.norm_2(x + self.mlp_out(F.gelu(self.mlp_in(x), approximate="tanh"))), (key, value)


class TorchGPT(nn.Module):
    """The decoder without dropout; `generate` continues greedily with a cache."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context_length, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))

    def forward(self, ids: torch.Tensor, caches: Caches | None = None) -> tuple[torch.Tensor, Caches]:
        """ids [B, T] → states [B, T, D], and the caches with these positions."""
        known = 0 if caches is None or caches[0] is None else caches[0][0].shape[2]
        places = torch.arange(known, known + ids.shape[1], device=ids.device)
        x = self.tokens(ids) + self.positions(places)
        kept: Caches = []
        for block, cache in zip(self.blocks, caches or [None] * len(self.blocks), strict=True):
            x, found = block(x, cache)
            kept.append(found)
        return x, kept

    @torch.inference_mode()
    def generate(self, ids: torch.Tensor, count: int) -> torch.Tensor:
        """The `count` most probable next tokens one after another, [B, count]."""
        states, caches = self(ids)
        tokens = []
        for number in range(count):
            tokens.append(F.linear(states[:, -1], self.tokens.weight).argmax(-1, keepdim=True))
            if number + 1 < count:
                states, caches = self(tokens[-1], caches)
        return torch.cat(tokens, 1)

    def load_named(self, arrays: dict[str, Any]) -> None:
        """Takes weights by their published names; matrices are [in, out]."""
        names = {
            "qkv": "attn.c_attn",
            "out": "attn.c_proj",
            "norm_1": "ln_1",
            "norm_2": "ln_2",
            "mlp_in": "mlp.c_fc",
            "mlp_out": "mlp.c_proj",
        }
        state = {
            "tokens.weight": arrays["tokens_embed.weight"],
            "positions.weight": arrays["positions_embed.weight"],
        }
        for layer in range(len(self.blocks)):
            for ours, theirs in names.items():
                for kind in ("weight", "bias"):
                    array = arrays[f"h.{layer}.{theirs}.{kind}"]
                    state[f"blocks.{layer}.{ours}.{kind}"] = array.T if array.ndim == 2 else array
        self.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
