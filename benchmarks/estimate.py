"""The estimate of `gpt1_jax.compile` beside what others measured on TPUs: python -m benchmarks.estimate.

It compiles models whose speed is published, with the tool that estimates ours; that needs the extra `tpu`, but no TPU.
The sizes, the slice, the batch and the recomputation are the published ones; the program is ours. Both sides count 6
FLOPs a token for each parameter, and attention only where nothing is masked.
"""

import os
from dataclasses import replace
from typing import NamedTuple

from absl import flags

from gpt1_jax.config import Config, ModelConfig
from gpt1_jax.door import door

_MODELS = flags.DEFINE_list("models", [], "parts of the names of the models to compile; by default all")


class Published(NamedTuple):
    """A measured training step.

    Attributes:
        name: of the model.
        source: where the figure and the settings stand.
        mfu: the share of the chips' peak that is reached.
        topology: the slice, over all of which the parameters are split.
        rows: sequences on each chip.
        layers, width, hidden, heads: the model's sizes.
    """

    name: str
    source: str
    mfu: float
    topology: str
    rows: int
    layers: int
    width: int
    hidden: int
    heads: int


_MAXTEXT = "github.com/AI-Hypercomputer/maxtext, MaxText/configs/"
PUBLISHED = (
    Published("22B", f"{_MAXTEXT}v4/22b.sh, README.md", 0.567, "v4:4x4x4", 13, 48, 6144, 24_576, 24),
    # Its MLP has three matrices, 28,672 wide, and its heads together are twice as wide as the model. With this width,
    # the two matrices of ours make a layer as large.
    Published("16B", f"{_MAXTEXT}v5e/16b.sh, README.md", 0.611, "v5e:16x16", 6, 32, 4096, 51_200, 32),
)
_LENGTH, _PIECES = 2048, 32_000


def settings(published: Published, chips: int) -> Config:
    """Returns the config of a published step, which recomputes all activations."""
    default = Config()
    model = ModelConfig(
        num_layers=published.layers,
        num_heads=published.heads,
        d_model=published.width,
        d_ff=published.hidden,
        context_length=_LENGTH,
        norm="pre",
        embedding_dropout=0.0,
        attention_dropout=0.0,
        residual_dropout=0.0,
        remat="full",
    )
    return replace(
        default,
        model=model,
        data=replace(default.data, vocab_size=_PIECES),
        train=replace(default.train, batch_size=published.rows * chips, num_steps=1, num_epochs=0.0),
        mesh=replace(default.mesh, data=1, fsdp=chips),
    )


def main(_: list[str]) -> None:
    """Prints a line for each model, then the same in JSON."""
    # This must come before jax is imported.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from benchmarks.timing import conclude
    from gpt1_jax.ahead.compiling import compile_step, find_devices

    rows = []
    for published in PUBLISHED:
        if _MODELS.value and not any(part in published.name for part in _MODELS.value):
            continue
        devices = find_devices(published.topology, 1)
        found = compile_step(settings(published, len(devices)), published.topology, devices)
        rows.append(found | {"name": published.name, "source": published.source, "published": published.mfu})
        print(
            f"{published.name} on {published.topology}: {published.mfu:.1%} published, {found['mfu']:.1%} estimated "
            f"({published.source})",
            flush=True,
        )
    conclude(rows=rows)


if __name__ == "__main__":
    door(main)
