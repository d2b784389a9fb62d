"""What the choices of pre-training are worth, in bits a byte of held-out text.

    python -m benchmarks.pretraining --output=DIR --variants=full,relu,pre --seeds=0,1,2,3,4

Every model is a run directory DIR/VARIANT/SEED of the demo text. Finished ones are kept, so the same command goes on
after an interruption, and further commands add to what DIR holds. DIR/table.md has the mean bits a byte of each variant
and how it differs from "full", whose setting is the paper's but for its size. `benchmarks.ablations` fine-tunes from
these runs: --init_from=DIR/full/{seed} --variant_from=relu=DIR/relu/{seed}.
"""

import statistics
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.comparing import seeds_difference
from benchmarks.variants import pretrain, read_results
from gpt1_jax.door import door
from gpt1_jax.errors import UserError

# What each variant changes.
CHANGES: dict[str, dict[str, Any]] = {
    "full": {},
    "relu": {"model.activation": "relu"},
    "swish": {"model.activation": "swish"},
    "pre": {"model.norm": "pre"},
    "no_dropout": {f"model.{place}_dropout": 0.0 for place in ("embedding", "attention", "residual")},
    "bfloat16": {"model.dtype": "bfloat16"},
    # Units beside the hidden layer as in the paper, 2,048 to 3,072.
    "lstm": {"model.kind": "lstm", "model.num_layers": 1, "model.d_ff": 171},
    "bytes": {"data.tokenizer": "byte_bpe"},
    "adamw": {"optimizer.name": "adamw"},
    "decay_all": {"optimizer.decayed": "all"},
    "no_decay": {"optimizer.weight_decay": 0.0},
    "no_clipping": {"optimizer.clip_norm": 0.0},
    "no_warmup": {"optimizer.warmup_steps": 0},
    "warmup_cosine": {"optimizer.schedule": "warmup_cosine"},
    "half_batch": {"train.batch_size": 4},
}
# What all change of the preset `tiny`: small enough to be trained many times.
_SIZE = {
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.d_model": 64,
    "model.d_ff": 256,
    "data.vocab_size": 1_024,
    "train.eval_every": 1_000_000,
    "train.checkpoint_every": 1_000_000,
    "optimizer.warmup_steps": 100,
}

# Tests import benchmarks that share names of flags into one process.
_SHARED: Any = {"allow_override": True}
_OUTPUT = flags.DEFINE_string("output", None, "the directory of all runs", **_SHARED)
_VARIANTS = flags.DEFINE_list("variants", list(CHANGES), f"of {', '.join(CHANGES)}", **_SHARED)
_SEEDS = flags.DEFINE_list("seeds", "0,1,2,3,4", "seeds of each model", **_SHARED)
_STEPS = flags.DEFINE_integer("steps", 1_000, "updates", 1, **_SHARED)


def main(_: list[str]) -> None:
    """Makes the models that are missing; after each variant it writes the table of what there is."""
    if _OUTPUT.value is None:
        raise UserError("--output=DIR is missing; name the directory of the runs.")
    for variant in _VARIANTS.value:
        if variant not in CHANGES:
            raise UserError(f"--variants={variant} is no variant; choose of {', '.join(CHANGES)}.")
    output, table = Path(_OUTPUT.value), ""
    for variant in _VARIANTS.value:
        for seed in _SEEDS.value:
            settings = _SIZE | CHANGES[variant] | {"seed": seed}
            given = [f"{key}={value}" for key, value in settings.items()]
            pretrain(output / variant / seed, _STEPS.value, given)
        table = make_table(output)
        (output / "table.md").write_text(table)
    print(table)


def make_table(output: Path) -> str:
    """Returns the mean bits a byte of each variant and its difference from "full" over the seeds of both."""
    found = {variant: _bits(output / variant) for variant in CHANGES}
    lines = ["| | bits a byte | difference from full (95 %) |", "|---|---|---|"]
    for variant, bits in found.items():
        if bits:
            seeds = sorted(bits.keys() & found["full"].keys())
            pairs = [found["full"][seed] for seed in seeds], [bits[seed] for seed in seeds]
            told = "" if variant == "full" or not seeds else seeds_difference(*pairs, digits=3)
            lines.append(f"| {variant} | {statistics.mean(bits.values()):.3f} | {told} |")
    return "\n".join([*lines, ""])


def _bits(place: Path) -> dict[str, float]:
    """Returns bits a byte by the seed, of finished runs."""
    runs = {run.name: read_results(run).get("validation") for run in place.glob("*")}
    return {seed: found["bits_per_byte"] for seed, found in runs.items() if found}


if __name__ == "__main__":
    door(main)
