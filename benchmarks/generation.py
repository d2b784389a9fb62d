"""Tokens a second of greedy generation beside PyTorch: python -m benchmarks.generation [--preset=tiny].

It needs torch and transformers. All sides have the same random weights in float32 and continue prompts of 32 tokens by
128 new ones; the output says how many of these are equal. Rounds are interleaved, after one that warms up; the figures
are medians and ranges.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags
from flax import linen as nn

from benchmarks.peers import TorchGPT, check_devices, load_named, make_transformers
from benchmarks.settings import find_preset
from benchmarks.timing import conclude, measure
from gpt1_jax.config import MeshConfig
from gpt1_jax.devices.mesh import make_mesh, use
from gpt1_jax.door import door
from gpt1_jax.interop.run_directory import published_weights
from gpt1_jax.model.decoding.generator import Generator
from gpt1_jax.model.decoding.settings import Generation
from gpt1_jax.model.transformer import Transformer

_PRESET = flags.DEFINE_string("preset", "", "a preset of configs/pretrain.py; by default the paper's")
_BATCHES = flags.DEFINE_list("batches", ["1", "8"], "prompts at once")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "rounds of timing", 1)
_SLOW_ROUNDS = flags.DEFINE_integer("slow_rounds", 1, "rounds with transformers, which has no cache here")


def main(_: list[str]) -> None:
    """Prints a line for each batch size and side, then the same in JSON."""
    check_devices()
    whole = find_preset(_PRESET.value)
    config, vocab_size = dataclasses.replace(whole.model, dtype="float32"), whole.data.vocab_size
    given = min(32, config.context_length // 4)
    count = min(128, config.context_length - given)
    mesh = make_mesh(MeshConfig(1, 1, 1))
    model, facts = Transformer(config, vocab_size), []
    with use(mesh):
        start = jax.jit(lambda key: nn.unbox(model.init(key, jnp.zeros((1, 1), jnp.int32))["params"]))
        params = start(jax.random.key(0))
        weights = published_weights(config, jax.device_get(params), vocab_size)
        ours = Generator(model, mesh, params)
        peer, theirs = TorchGPT(config, vocab_size), make_transformers(config, vocab_size)
        for torch_model in (peer, theirs):
            load_named(torch_model.eval(), weights)
        settings = Generation(max_new_tokens=count, temperature=0)
        for batch in map(int, _BATCHES.value):
            prompts = np.random.default_rng(0).integers(0, vocab_size, (batch, given))
            ids = torch.tensor(prompts)
            sides: dict[str, Callable[[], Any]] = {
                "gpt1_jax": lambda prompts=prompts: [s.tokens for (s,) in ours(prompts.tolist(), settings)],
                "torch, cached": lambda ids=ids: peer.generate(ids, count).tolist(),
                "transformers": lambda ids=ids: _continue(theirs, ids, count),
            }
            rounds = dict.fromkeys(sides, _ROUNDS.value) | {"transformers": _SLOW_ROUNDS.value}
            facts += _measure(sides, rounds, batch, count)
    conclude(preset=_PRESET.value, prompt=given, new=count, rows=facts)


def _measure(
    sides: dict[str, Callable[[], Any]], rounds: dict[str, int], batch: int, count: int
) -> list[dict[str, Any]]:
    found = {name: side() for name, side in sides.items() if rounds[name]}  # which warms up, too
    facts = []
    for row in measure(sides, rounds, work=batch * count, unit="tokens"):
        same = float(np.mean(np.array(found[row.side]) == found["gpt1_jax"]))
        print(f"batch {batch}  {row}; {same:.1%} the same tokens", flush=True)
        facts.append({"batch": batch, **dataclasses.asdict(row), "same_tokens": same})
    return facts


def _continue(model: Any, ids: torch.Tensor, count: int) -> list[list[int]]:
    """Returns what transformers' `generate` writes greedily."""
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, pad_token_id=0
    )
    return out[:, ids.shape[1] :].tolist()


if __name__ == "__main__":
    door(main)
