"""What the benchmarks compare with, in PyTorch: a plain decoder, transformers' own, and the loop that trains either.

The plain decoder is written as the fastest ones are: fused attention (scaled_dot_product_attention), one matrix for
queries, keys and values, tied output, and no options. Weights are loaded by their published names, so one set fits all.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from gpt1_jax.config import ModelConfig, OptimizerConfig
from gpt1_jax.errors import UserError

Caches = list[tuple[torch.Tensor, torch.Tensor] | None]


class Block(nn.Module):
    """n = norm(x + attention(x)), then norm(n + mlp(n))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, self.heads = config.d_model, config.num_heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp_in, self.mlp_out = nn.Linear(width, config.d_ff), nn.Linear(config.d_ff, width)
        self.residual, self.attention = config.residual_dropout, config.attention_dropout

    def forward(self, x: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor] | None) -> Any:
        """Returns the states x [B, T, D] after the block, and the keys and values with those of x."""
        shape = (*x.shape[:2], self.heads, -1)
        query, key, value = (part.view(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if cache is not None:
            key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
        attended = F.scaled_dot_product_attention(
            query, key, value, is_causal=cache is None, dropout_p=self.attention if self.training else 0.0
        )
        x = self.norm_1(x + self._drop(self.out(attended.transpose(1, 2).reshape(x.shape))))
        mlp = self.mlp_out(F.gelu(self.mlp_in(x), approximate="tanh"))
        return self.norm_2(x + self._drop(mlp)), (key, value)

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.residual, self.training)


class TorchGPT(nn.Module):
    """The decoder; `generate` continues greedily with a cache."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context_length, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.dropout = config.embedding_dropout

    def forward(self, ids: torch.Tensor, caches: Caches | None = None) -> tuple[torch.Tensor, Caches]:
        """Returns the states [B, T, D] of ids [B, T], and the caches with these positions."""
        known = 0 if caches is None or caches[0] is None else caches[0][0].shape[2]
        places = torch.arange(known, known + ids.shape[1], device=ids.device)
        x = F.dropout(self.tokens(ids) + self.positions(places), self.dropout, self.training)
        kept: Caches = []
        for block, cache in zip(self.blocks, caches or [None] * len(self.blocks), strict=True):
            x, found = block(x, cache)
            kept.append(found)
        return x, kept

    @torch.inference_mode()
    def generate(self, ids: torch.Tensor, count: int) -> torch.Tensor:
        """Returns the next `count` tokens, each the most probable after those before it, [B, count]."""
        states, caches = self(ids)
        tokens = []
        for number in range(count):
            tokens.append(F.linear(states[:, -1], self.tokens.weight).argmax(-1, keepdim=True))
            if number + 1 < count:
                states, caches = self(tokens[-1], caches)
        return torch.cat(tokens, 1)


def check_devices() -> None:
    """Checks that jax computes on the kind of device that PyTorch uses here.

    Raises:
        UserError: it does not.
    """
    if jax.default_backend() != "cpu":
        raise UserError(
            f"PyTorch computes on the CPU here, jax on {jax.default_backend()}; set JAX_PLATFORMS=cpu."
        )


def load_named(model: Any, arrays: dict[str, Any]) -> None:
    """Loads weights into either model by their published names; matrices are [in, out]."""
    if not isinstance(model, TorchGPT):
        model.transformer.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
        return
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
    for layer in range(len(model.blocks)):
        for ours, theirs in names.items():
            for kind in ("weight", "bias"):
                array = arrays[f"h.{layer}.{theirs}.{kind}"]
                state[f"blocks.{layer}.{ours}.{kind}"] = array.T if array.ndim == 2 else array
    model.load_state_dict({name: torch.tensor(array) for name, array in state.items()})


def make_transformers(config: ModelConfig, vocab_size: int) -> Any:
    """Returns transformers' OpenAIGPTLMHeadModel of the same sizes and dropout."""
    return transformers.OpenAIGPTLMHeadModel(
        transformers.OpenAIGPTConfig(
            vocab_size=vocab_size,
            n_positions=config.context_length,
            n_embd=config.d_model,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            embd_pdrop=config.embedding_dropout,
            attn_pdrop=config.attention_dropout,
            resid_pdrop=config.residual_dropout,
        )
    )


def logits_of(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Returns the logits of either model, [B, T, V]."""
    if isinstance(model, TorchGPT):
        return F.linear(model(ids)[0], model.tokens.weight)
    return model(ids).logits


def make_update(model: nn.Module, optimizer: OptimizerConfig) -> Callable[[torch.Tensor], float]:
    """Returns a function that computes the loss of a batch, updates the model by it, and returns it, as PyTorch's users
    write it.

    AdamW in its fused form, without decay on biases and gains, behind clipping by the global norm.
    """
    parameters = list(model.parameters())
    rule = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": optimizer.weight_decay},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=optimizer.learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.epsilon,
        fused=True,
    )

    def update(loss: torch.Tensor) -> float:
        rule.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, optimizer.clip_norm)
        rule.step()
        return loss.item()

    return update


def make_torch_step(
    model: nn.Module, optimizer: OptimizerConfig, compiled: bool = False
) -> Callable[[np.ndarray, np.ndarray], float]:
    """Returns a step of pre-training: (inputs, targets), int [B, T] → the loss before the update."""

    def forward(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits_of(model, ids).flatten(0, 1), targets.flatten())

    loss_of, update = torch.compile(forward) if compiled else forward, make_update(model, optimizer)
    return lambda ids, targets: update(loss_of(torch.tensor(ids), torch.tensor(targets)))
