"""All that a GPU is to be asked about training, in one command: python -m benchmarks.gpu [--batches=16,32,64].

1. Attention: the error and time of each form, with dropout and without, and the fastest for `model.attention=auto`.
2. Training: steps of GPT-1 in bfloat16 with dropout beside the plain PyTorch decoder, compiled, with the same weights
   and batches; the share of the peak, and memory.
3. Profile: the kernels in which a step's time goes.

Of the packages that are not with jax, torch and transformers on such a machine it needs ml_collections and jax-triton.
`--tiny` runs all of it on a CPU in a minute.
"""

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from gpt1_jax.config import Config
from gpt1_jax.door import door
from gpt1_jax.errors import Fault

_BATCHES = flags.DEFINE_list("batches", ["16", "32", "64"], "rows a batch")
_STEPS = flags.DEFINE_integer("steps", 10, "steps in a round", 1)
# Tests import benchmarks that share names of flags into one process.
_TINY = flags.DEFINE_bool("tiny", False, "small sizes, to try the command itself")
# The first step's losses may differ by that much in bfloat16.
_TOLERANCE = 1e-2
# Errors of a form of attention may be so many times those of the plain one.
_AS_EXACT = 1.2


def main(_: list[str]) -> None:
    """Prints a line for each measurement, then all in JSON."""
    # Both sides share the device, and jax would take most of its memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from benchmarks import attention
    from benchmarks.timing import conclude

    rounds = 1 if _TINY.value else 20
    forms = attention.compare("1x16x1x8" if _TINY.value else "64x512x12x64", rounds)
    best = {f"dropout {rate}": fastest(forms, rate) for rate in sorted({form["dropout"] for form in forms})}
    for rate, form in best.items():
        print(f"{rate}: {form} is the fastest of the exact forms")
    steps, kernels = [], {}
    for batch in map(int, _BATCHES.value):
        found, kernels = _compare_steps(settings(batch))
        steps.append(found)
    for name, share in kernels.items():
        print(f"{share:6.1%} of the step  {name}")
    conclude(forms=forms, fastest=best, steps=steps, kernels=kernels)


def settings(batch: int) -> Config:
    """Returns the paper's setting with AdamW at a constant rate, as the other side has it."""
    config = Config()
    optimizer = replace(
        config.optimizer, name="adamw", warmup_steps=0, warmup_fraction=0.0, total_steps=10**9
    )
    train = replace(config.train, batch_size=batch, num_steps=10**9, num_epochs=0.0)
    config = replace(config, optimizer=optimizer, train=train)
    if not _TINY.value:
        return config
    model = replace(config.model, num_layers=1, num_heads=2, d_model=32, d_ff=64, context_length=32)
    return replace(config, model=model, data=replace(config.data, vocab_size=200))


def fastest(forms: list[dict[str, Any]], rate: float) -> str:
    """Returns the fastest form for a rate of dropout whose errors are about those of the plain one."""
    fitting = [form for form in forms if form["dropout"] == rate]
    plain = next(form for form in fitting if form["form"] == "plain")
    exact = [
        form
        for form in fitting
        if all(e <= _AS_EXACT * p for e, p in zip(form["errors"], plain["errors"], strict=True))
    ]
    return min(exact, key=lambda form: form["milliseconds"])["form"]


def _compare_steps(config: Config) -> tuple[dict[str, Any], dict[str, float]]:
    """Times steps of both sides; returns what was found, and the shares of the kernels of ours."""
    import torch

    from benchmarks.ours import Training
    from benchmarks.settings import batches
    from benchmarks.timing import measure
    from gpt1_jax.training.speed import model_flops_utilization, training_flops_per_token

    batch, rounds = config.train.batch_size, 1 if _TINY.value else 7
    _check_losses(config)
    training = Training(config)
    sides = {"gpt1_jax": _many(training, config), "torch compiled": _many(_torch_step(config), config)}
    tokens = batch * config.model.context_length * _STEPS.value
    rows = measure(sides, rounds, tokens, "tokens")
    flops = training_flops_per_token(config.model, config.data.vocab_size)
    shares = {row.side: model_flops_utilization(row.speed.median, flops, 1) for row in rows}
    memory = {"gpt1_jax": training.bytes}
    if torch.cuda.is_available():
        memory["torch compiled"] = torch.cuda.max_memory_allocated()
    for row in rows:
        share = "" if shares[row.side] is None else f"  {shares[row.side]:.1%} of the peak"
        print(f"batch {batch:3}  {row}{share}", flush=True)
    found = {"batch": batch, "rows": [asdict(row) for row in rows], "mfu": shares, "bytes": memory}
    step = partial(training, *next(batches(config)))
    return found, profile(step)


def _check_losses(config: Config) -> None:
    """Checks that both sides begin with the same loss, without dropout.

    Raises:
        Fault: they differ.
    """
    from benchmarks.ours import Training
    from benchmarks.settings import batches

    dropouts = {f"{place}_dropout": 0.0 for place in ("embedding", "attention", "residual")}
    config = replace(config, model=replace(config.model, **dropouts))
    batch = next(batches(config))
    ours, theirs = Training(config)(*batch), _torch_step(config, compiled=False)(*batch)
    if abs(ours - theirs) > _TOLERANCE * theirs:
        raise Fault(
            f"The losses without dropout are {ours:.4f} and {theirs:.4f}, so this is not the same model."
        )


def _torch_step(config: Config, compiled: bool = True) -> Callable[[Any, Any], float]:
    """Returns the step of the plain PyTorch decoder, in bfloat16 by its autocast, with our weights."""
    import torch
    from torch.nn import functional as F

    from benchmarks import peers
    from benchmarks.ours import initial_weights

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    model = peers.TorchGPT(config.model, config.data.vocab_size)
    peers.load_named(model, initial_weights(config))
    model = model.to(device).train()
    update = peers.make_update(model, config.optimizer)

    def forward(ids: Any, targets: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return F.cross_entropy(peers.logits_of(model, ids).flatten(0, 1), targets.flatten())

    loss = torch.compile(forward) if compiled and device == "cuda" else forward
    return lambda ids, targets: update(loss(*(torch.tensor(x, device=device) for x in (ids, targets))))


def _many(step: Callable[[Any, Any], float], config: Config) -> Callable[[], None]:
    from benchmarks.settings import batches

    source = batches(config)

    def steps() -> None:
        for _ in range(_STEPS.value):
            step(*next(source))

    return steps


def profile(step: Callable[[], Any], count: int = 12) -> dict[str, float]:
    """Returns the kernels that take most of a step's time on the device, with their shares of it."""
    import jax

    with tempfile.TemporaryDirectory() as place:
        with jax.profiler.trace(place):
            step()
        spent: dict[str, float] = defaultdict(float)
        for file in Path(place).rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
                if plane.name.startswith("/device:"):
                    for line in plane.lines:
                        # The other lines repeat the same time by module, step and operation.
                        if line.name.startswith("Stream"):
                            for event in line.events:
                                spent[event.name] += event.duration_ns
    total = sum(spent.values())
    most = sorted(spent, key=lambda name: -spent[name])[:count]
    return {name: spent[name] / total for name in most}


if __name__ == "__main__":
    door(main)
