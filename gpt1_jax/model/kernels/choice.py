"""The forms that attention takes, and the one place that chooses among them.

Letters: B sequences, T positions, H heads, K head width.
"""

import dataclasses
from functools import partial
from typing import Protocol

import jax
from jax.sharding import Mesh

from gpt1_jax.config import ModelConfig
from gpt1_jax.devices.mesh import platform
from gpt1_jax.errors import UserError
from gpt1_jax.model.attention import BEFORE, Sight, chunked_attention, plain_attention
from gpt1_jax.model.dropout import Dropout
from gpt1_jax.model.kernels import flash_gpu, library


class Attention(Protocol):
    """A form of attention; all but "plain" and "chunked" are kernels and run under a mesh."""

    def __call__(
        self, query: jax.Array, key: jax.Array, value: jax.Array, dropout: Dropout, sight: Sight
    ) -> jax.Array:
        """query, key, value [B, T, H, K] → [B, T, H, K], with dropout on the weights, restricted to what is seen."""
        ...


def _flash(
    query: jax.Array, key: jax.Array, value: jax.Array, dropout: Dropout, sight: Sight = BEFORE
) -> jax.Array:
    if platform() == "gpu":
        return flash_gpu.flash_attention(query, key, value, dropout, sight)
    # Imported late, here and below: only TPUs need Pallas, which takes a quarter of a second.
    from gpt1_jax.model.kernels.flash_tpu import flash_attention

    return flash_attention(query, key, value, dropout, sight)


FORMS: dict[str, Attention] = {
    "plain": plain_attention,
    "chunked": chunked_attention,
    "flash": _flash,
    "splash": partial(library.attention, library.splash),
    "cudnn": partial(library.attention, library.cudnn),
}
_RUNS_ON = {"flash": ("tpu", "gpu"), "splash": ("tpu",), "cudnn": ("gpu",)}
_FASTEST = {"tpu": ("flash", "splash"), "gpu": ("flash", "cudnn")}


def attention_in_use(config: ModelConfig, dropout: bool, groups: bool = False) -> Attention:
    """Returns the attention of a transformer on the devices in use.

    Args:
        config: names the form.
        dropout: whether anything is dropped.
        groups: whether groups of positions are kept apart.

    Raises:
        UserError: as `choose_attention`.
    """
    return FORMS[choose_attention(config, platform(), dropout, groups)]


def choose_attention(config: ModelConfig, platform: str, dropout: bool, groups: bool = False) -> str:
    """Returns the form of a transformer's attention on a platform: config.attention, or what "auto" stands for.

    Args:
        config: names the form.
        platform: of the devices, as jax names it: cpu, gpu or tpu.
        dropout: whether the run drops anything, as training does.
        groups: whether groups of positions are kept apart, such as the documents of a window, or padding from the rest.

    Raises:
        UserError: config.attention names a form that does not fit; it says why.
    """
    dropout = dropout and config.attention_dropout > 0
    forms = _FASTEST.get(platform, ())
    fitting = (form for form in forms if not _unfit(form, config, platform, dropout, groups))
    auto = next(fitting, "chunked")
    if config.attention == "auto":
        return auto
    # The evaluations of what attends both ways leave padding out by its group, so a form that is named has to.
    reason = _unfit(config.attention, config, platform, dropout, groups or not config.causal)
    if reason:
        raise UserError(f"model.attention={config.attention} {reason}; set auto, which is {auto} here.")
    return config.attention


def explain_attention(config: ModelConfig, platform: str, dropout: bool, groups: bool = False) -> str:
    """Says which form `choose_attention` chooses, and of each faster one for the platform why it is not that.

    Raises:
        UserError: as `choose_attention`.
    """
    chosen = choose_attention(config, platform, dropout, groups)
    dropout = dropout and config.attention_dropout > 0
    faster = _FASTEST.get(platform, ()) if config.attention == "auto" else ()
    faster = faster[: faster.index(chosen)] if chosen in faster else faster
    reasons = [f"{form} {_unfit(form, config, platform, dropout, groups)}" for form in faster]
    return f"{chosen} attention" + (f" ({'; '.join(reasons)})" if reasons else "")


def keeps_apart(config: ModelConfig, mesh: Mesh) -> bool:
    """Returns whether a trunk keeps the sequences of a row apart, with the form of attention that it has for one."""
    if config.kind != "transformer":
        return False
    platform = mesh.devices.flat[0].platform
    if config.attention != "auto":
        return not _unfit(config.attention, config, platform, dropout=False, groups=True)
    # What attends both ways has to leave out its padding in any case.
    one, several = (choose_attention(config, platform, False, groups) for groups in (not config.causal, True))
    return one == several


def or_auto(config: ModelConfig, platform: str) -> ModelConfig:
    """Returns the config for reading a trained model anywhere, with "auto" instead of a form the platform lacks."""
    # As in `choose_attention`.
    unfit = _unfit(config.attention, config, platform, dropout=False, groups=not config.causal)
    return dataclasses.replace(config, attention="auto") if unfit else config


def _unfit(form: str, config: ModelConfig, platform: str, dropout: bool, groups: bool) -> str | None:
    """Returns why a form cannot be used, as the rest of a sentence, or None if it can."""
    if form not in _RUNS_ON:
        return None
    if platform not in _RUNS_ON[form]:
        places = " and ".join(name.upper() for name in _RUNS_ON[form])
        return f"runs on {places} only, and the devices are {platform.upper()}"
    if form == "flash" and platform == "gpu":
        return flash_gpu.lacking(config)
    if form == "flash" and not config.causal:
        return "attends to earlier positions only, and model.causal=False"
    if form in ("flash", "cudnn") and groups:
        return (
            "cannot keep groups of positions apart, such as documents of a window, or padding from the rest"
        )
    width = config.d_model // config.num_heads
    if form == "flash":
        from gpt1_jax.model.kernels.flash_tpu import fits

        if fits(config.context_length, width, config.dtype):
            return None
        return f"cannot hold a head of model.context_length={config.context_length} × {width} in a TPU core"
    if dropout:
        return f"knows no dropout, and model.attention_dropout={config.attention_dropout:g}"
    if form == "cudnn" and config.dtype != "bfloat16":
        return f"computes in bfloat16, and model.dtype={config.dtype}"
    if form == "cudnn" and (width % 8 or width > library.CUDNN_WIDTH):
        return (
            f"takes heads up to {library.CUDNN_WIDTH} wide, in multiples of 8, and "
            f"model.d_model / model.num_heads is {width}"
        )
    return None
