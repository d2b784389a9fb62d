"""GPT-1 in JAX: pre-training, fine-tuning and use of the models of Radford et al., 2018."""

import typing

if typing.TYPE_CHECKING:
    from gpt1_jax.training.trained import TrainedRun


def load(directory: str) -> "TrainedRun":
    """Opens what was trained in a run directory, with the parameters of its newest checkpoint.

    Raises:
        errors.UserError: there is no run, no checkpoint, or none that is sound.
    """
    from gpt1_jax.training.trained import (
        TrainedRun,
    )  # late: the commands check their flags before jax is imported

    return TrainedRun(directory)
