"""Two things that transformers' OpenAIGPT cannot hold, said in a way it can: fewer hidden units, and a head's bias.

Letters: D width, F hidden units, N outputs of the head.
"""

import numpy as np

from gpt1_jax.errors import UserError

_TOLERANCE = 1e-6  # of what rounding may add to an output, where states are near 1


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


def fold_bias(
    kernel: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A head's kernel that does without the bias, and the layer norm that it reads.

    The head reads states h = scale · n + shift of the last layer norm, of which n sums to 0. So adding α / scale to a
    kernel's column adds α · Σ (shift / scale) to its output, whatever n is: α makes that the bias. Where the sum is too
    near 0 for float32, the head reads n + 1 instead, by a kernel scale · kernel + β: that adds D · β, and what the
    shift did besides is in β too. Only the head may read that norm then.

    Args:
        kernel, bias: float32 [D, N] and [N].
        scale, shift: float32 [D], of the last layer norm.

    Returns:
        float32 [D, N], [D] and [D]: the kernel, and the scale and the shift of the layer norm in front of it. These are
        `scale` and `shift` themselves wherever they can be.
    """
    if not bias.any():
        return kernel, scale, shift
    wide, rounding = np.float64, np.finfo(np.float32).eps
    with np.errstate(all="ignore"):  # a scale of 0 ends as no number, which is no small error either
        ratio = shift.astype(wide) / scale
        alpha = bias / ratio.sum()
        error = rounding * np.abs(alpha).max() * np.sqrt((1 + ratio**2).sum())
        folded = (kernel + alpha / scale[:, None].astype(wide)).astype(np.float32)
    if error < _TOLERANCE and np.isfinite(folded).all():
        return folded, scale, shift
    scaled = scale[:, None].astype(wide) * kernel
    beta = (shift.astype(wide) @ kernel + bias - scaled.sum(0)) / len(scale)
    return (scaled + beta).astype(np.float32), np.ones_like(scale), np.ones_like(shift)
