"""GPT-1 in JAX: pre-training, fine-tuning and use of the models of Radford et al., 2018."""

import os
import typing

if typing.TYPE_CHECKING:
    from gpt1_jax.usage.trained import TrainedRun


def load(directory: str | os.PathLike[str], step: int | None = None) -> "TrainedRun":
    """Opens what was trained in a run directory, with the parameters of its newest checkpoint or that of `step`.

    Raises:
        errors.UserError: there is no run, no such checkpoint, or none that is sound.
    """
    # late: the commands check their flags before jax is imported
    from gpt1_jax.usage.trained import TrainedRun

    return TrainedRun(directory, step)
