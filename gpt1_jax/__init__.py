"""GPT-1 in JAX: pre-training, fine-tuning and use of the models of Radford et al., 2018."""

import os
import typing

from gpt1_jax.errors import UserError

if typing.TYPE_CHECKING:
    from gpt1_jax.usage.learning import finetune, pretrain
    from gpt1_jax.usage.trained import TrainedRun

__all__ = ["UserError", "__version__", "finetune", "load", "pretrain"]
__version__ = "0.1.0"


def load(
    directory: str | os.PathLike[str],
    step: typing.SupportsIndex | typing.Literal["best", "last"] | None = None,
) -> "TrainedRun":
    """Opens the model of a run directory, with the parameters of one of its checkpoints.

    Args:
        directory: the run directory.
        step: the step of a checkpoint, "best" for that of the best evaluation, or "last"; None means the best of a
            fine-tuned run (see finetune.select) and the last of a pre-trained one.

    Raises:
        UserError: there is no run, no such checkpoint, or no sound one.
    """
    # Imported late, since the commands check their flags before jax is imported.
    from gpt1_jax.usage.trained import TrainedRun

    return TrainedRun(directory, step)


def __getattr__(name: str) -> typing.Any:
    """Imports what trains when it is asked for, since the commands check their flags before jax is imported."""
    if name in ("finetune", "pretrain"):
        from gpt1_jax.usage import learning

        return getattr(learning, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
