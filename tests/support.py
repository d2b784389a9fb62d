"""What tests of several rooms share: small settings, and meshes of the eight CPU devices."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from configs import finetune, pretrain
from gpt1_jax.config import Config, MeshConfig, ModelConfig
from gpt1_jax.devices.mesh import make_mesh, use
from gpt1_jax.overrides import from_dict, to_dict

SMALL = {
    "model.num_layers": 2,
    "model.num_heads": 4,
    "model.d_model": 32,
    "model.d_ff": 64,
    "model.context_length": 16,
    "data.vocab_size": 380,
    "train.num_steps": 4,
    "train.log_every": 1,
    "train.eval_every": 2,
    "train.eval_batches": 2,
    "train.checkpoint_every": 2,
    "optimizer.warmup_steps": 2,
    "mesh.data": 1,
}


def tiny_config(**overrides: Any) -> Config:
    """The `tiny` preset made smaller still; overrides are dotted: tiny_config(**{"train.num_steps": 3}).

    With any of `finetune` it is a fine-tuning's, from a run of the same model.
    """
    values = to_dict(pretrain.tiny())
    if any(key.startswith("finetune.") for key in overrides):
        values |= {"init_from": "runs/begun", "finetune": to_dict(finetune.paper("cola"))["finetune"]}
    for key, value in (SMALL | overrides).items():
        *path, name = key.split(".")
        section = values
        for part in path:
            section = section[part]
        section[name] = value
    return from_dict(values)


def tiny_model(**overrides: Any) -> ModelConfig:
    """The model of `tiny_config`: tiny_model(d_model=64)."""
    return tiny_config(**{f"model.{name}": value for name, value in overrides.items()}).model


@contextlib.contextmanager
def use_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Iterator[Mesh]:
    """Runs what follows on a mesh of data × fsdp × tensor devices, under the rules of training."""
    mesh = make_mesh(MeshConfig(data, fsdp, tensor))
    with use(mesh):
        yield mesh


def gradients(function: Callable[..., jax.Array], *arguments: Any) -> Any:
    """The function's value at all arguments but the last, and their gradients, with the last as cotangent."""

    def run(*arguments: Any) -> Any:
        output, pull = jax.vjp(function, *arguments[:-1])
        return output, *pull(arguments[-1])

    return jax.jit(run)(*arguments)
