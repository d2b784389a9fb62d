"""Two things that transformers' OpenAIGPT cannot hold, said in a way it can: fewer hidden units, and a head's bias.

Letters: D width, F hidden units, N outputs of the head.
"""

import numpy as np

from gpt1_jax.errors import UserError

_TOLERANCE = 1e-4  # of the folded bias, relative


def widen(name: str, array: np.ndarray, hidden: int) -> np.ndarray:
    """A tensor, by its published name, with hidden units of zero behind its own, `hidden` in all: they add nothing."""
    axis = _hidden_axis(name)
    if axis is None or array.shape[axis] == hidden:
        return array
    room = [(0, 0)] * array.ndim
    room[axis] = (0, hidden - array.shape[axis])
    return np.pad(array, room)


def narrow(name: str, array: np.ndarray, hidden: int) -> np.ndarray:
    """A tensor, by its published name, with its first hidden units alone.

    Raises:
        UserError: the others are not zero.
    """
    axis = _hidden_axis(name)
    if axis is None:
        return array
    kept, rest = np.split(array, [hidden], axis)
    if rest.any():
        raise UserError(
            f"{name} has numbers beyond the n_inner={hidden} hidden units of its config.json; mend n_inner there."
        )
    return kept


def _hidden_axis(name: str) -> int | None:
    """The axis of a tensor that counts hidden units."""
    if name.endswith(("mlp.c_fc.weight", "mlp.c_fc.bias")):
        return -1
    return 0 if name.endswith("mlp.c_proj.weight") else None


def fold_bias(kernel: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """A head's kernel that does without the bias.

    The head reads states h = scale · n + shift of the last layer norm, of which n sums to 0. So adding α / scale to a
    kernel's column adds α · Σ (shift / scale) to its output, whatever n is: α makes that the bias.

    Args:
        kernel, bias: float32 [D, N] and [N].
        scale, shift: float32 [D], of the last layer norm.

    Returns:
        float32 [D, N]: h @ it is h @ kernel + bias.

    Raises:
        UserError: the sum is too near 0 for float32.
    """
    if not bias.any():
        return kernel
    with np.errstate(all="ignore"):  # a scale of 0 ends as no number, and is refused
        ratio = shift.astype(np.float64) / scale
        total = ratio.sum()
        error = np.finfo(np.float32).eps * (1 + np.abs(ratio)).sum() / np.abs(total)
        folded = (kernel + bias / total / scale[:, None]).astype(np.float32)
    if not (error < _TOLERANCE and np.isfinite(folded).all()):
        raise UserError(
            "The head's bias cannot be expressed in OpenAIGPTForSequenceClassification, whose layer has none: the last "
            f"layer norm's biases divided by its gains add up to {total:.3g}, too near 0 to carry it; convert the run "
            "it was fine-tuned from, or label with gpt1_jax.predict."
        )
    return folded
