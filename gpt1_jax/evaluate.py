"""Measures a run: python -m gpt1_jax.evaluate --workdir=RUN [--source=text:GLOB]."""

import json

from absl import flags

from gpt1_jax.door import door
from gpt1_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "the run directory")
_SOURCE = flags.DEFINE_string(
    "source", None, "text to measure, all of it; by default the run's own held-out part"
)


def main(_: list[str]) -> None:
    """Prints one JSON object: step, loss (nats a token), perplexity, bits_per_byte, tokens, bytes."""
    if _WORKDIR.value is None:
        raise UserError("--workdir is missing; name the run directory to measure.")

    from gpt1_jax.training.measuring import evaluate_text

    print(json.dumps(evaluate_text(_WORKDIR.value, _SOURCE.value)))


if __name__ == "__main__":
    door(main)
