"""Expresses two things that transformers' OpenAIGPT does not have: fewer hidden units, and the bias of a head.

Letters: D width, F hidden units, N outputs of the head.
"""

import numpy as np

from gpt1_jax.errors import UserError

# Rounding may add this much to an output whose states are near 1.
_TOLERANCE = 1e-6


def widen(name: str, array: np.ndarray, hidden: int) -> np.ndarray:
    """Pads a tensor, given by its published name, to `hidden` hidden units; the new ones are zero and add nothing."""
    axis = _hidden_axis(name)
    if axis is None or array.shape[axis] == hidden:
        return array
    room = [(0, 0)] * array.ndim
    room[axis] = (0, hidden - array.shape[axis])
    return np.pad(array, room)


def narrow(name: str, array: np.ndarray, hidden: int) -> np.ndarray:
    """Cuts a tensor, given by its published name, to its first `hidden` hidden units.

    Raises:
        UserError: the other units are not zero.
    """
    axis = _hidden_axis(name)
    if axis is None:
        return array
    kept, rest = np.split(array, [hidden], axis)
    if rest.any():
        raise UserError(
            f"{name} has numbers beyond the n_inner={hidden} hidden units of its config.json; correct n_inner there."
        )
    return kept


def _hidden_axis(name: str) -> int | None:
    """Returns the axis of a tensor that counts hidden units, or None."""
    if name.endswith(("mlp.c_fc.weight", "mlp.c_fc.bias")):
        return -1
    return 0 if name.endswith("mlp.c_proj.weight") else None


def fold_bias(
    kernel: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a head's kernel that needs no bias, and the layer norm that the head reads.

    The head reads states h = scale · n + shift of the last layer norm, where n sums to 0. Adding α / scale to a column
    of the kernel therefore adds α · Σ (shift / scale) to its output for every n, and α is chosen so that this is the
    bias. If the sum is too close to 0 for float32, the head reads n + 1 instead, with a kernel scale · kernel + β,
    which adds D · β; β also makes up for the shift. In that case nothing but the head may read the norm.

    Args:
        kernel, bias: float32 [D, N] and [N].
        scale, shift: float32 [D], those of the last layer norm.

    Returns:
        float32 [D, N], [D] and [D]: the kernel, and the scale and shift of the layer norm before it. Scale and shift
        are returned unchanged where possible.
    """
    if not bias.any():
        return kernel, scale, shift
    wide, rounding = np.float64, np.finfo(np.float32).eps
    # A scale of 0 leads to NaN, which fails the test of the error below.
    with np.errstate(all="ignore"):
        ratio = shift.astype(wide) / scale
        alpha = bias / ratio.sum()
        error = rounding * np.abs(alpha).max() * np.sqrt((1 + ratio**2).sum())
        folded = (kernel + alpha / scale[:, None].astype(wide)).astype(np.float32)
    if error < _TOLERANCE and np.isfinite(folded).all():
        return folded, scale, shift
    scaled = scale[:, None].astype(wide) * kernel
    beta = (shift.astype(wide) @ kernel + bias - scaled.sum(0)) / len(scale)
    return (scaled + beta).astype(np.float32), np.ones_like(scale), np.ones_like(shift)
