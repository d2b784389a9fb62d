"""What a user is told about a finished run beside its answers: warnings, and numbers that are no numbers."""

from functools import lru_cache
from typing import TypeVar

import numpy as np
from absl import logging

from gpt1_jax.errors import UserError

_Values = TypeVar("_Values", np.ndarray, list[float])


@lru_cache
def warn_once(sentence: str) -> None:
    """Prints a sentence to standard error, once however often it comes up."""
    logging.warning(sentence)


def check_finite(values: _Values) -> _Values:
    """Returns the values after checking that they are finite.

    Raises:
        UserError: one is not finite, as with the parameters of a training that diverged.
    """
    if not np.isfinite(values).all():
        raise UserError(
            "The parameters of this checkpoint give numbers that are not finite: its training diverged; name an "
            "earlier checkpoint, or another run."
        )
    return values
