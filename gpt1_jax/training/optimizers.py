"""The update rules, which are the authors' Adam and AdamW as it is known today, and their schedules."""

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from gpt1_jax.config import OptimizerConfig
from gpt1_jax.cpu import clip_by_global_norm


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Returns the learning rate of each update, counted from 0, so with a warm-up the first update has rate 0.

    With x = update / total and the warm-up ending at w:

    - "cosine" (pre-training, the paper's section 4.1): a linear warm-up, and then half a cosine to 0.
    - "linear" (fine-tuning, the authors' `warmup_linear`): (x / w below w, else 1) · (1 − x). optax would begin that
      decay from the peak only after the warm-up.
    - "warmup_cosine" (the authors'): x / w up to w, then (1 + cos πx) / 2, with a small jump at w.
    - "warmup_constant" (the authors'): x / w up to w, then 1.
    """
    total, peak = config.total_steps or num_steps, config.learning_rate
    warmup = config.warmup_steps or config.warmup_fraction * total
    if config.schedule == "cosine":
        # If the warm-up is longer than the run, the cosine gets one step, which is never taken.
        end: Any = max(total, warmup + 1)
        return optax.warmup_cosine_decay_schedule(0, peak, cast(Any, warmup), end)
    warm = optax.linear_schedule(0, 1, cast(Any, warmup)) if warmup else optax.constant_schedule(1)
    if config.schedule == "linear":
        decay = optax.linear_schedule(peak, 0, total)
        return lambda update: warm(update) * decay(update)
    cosine = config.schedule == "warmup_cosine"
    rest = optax.cosine_decay_schedule(peak, total) if cosine else optax.constant_schedule(peak)
    return lambda update: jnp.where(jnp.asarray(update) <= warmup, peak * warm(update), rest(update))


def decay_mask(config: OptimizerConfig, params: Any) -> Any:
    """Returns True for parameters that decay: those that `decayed` names.

    Biases and gains are recognized by their names, since stacking adds dimensions.
    """

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        name = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)][-1]
        return config.decayed == "all" or not name.endswith(("bias", "scale"))

    return jax.tree_util.tree_map_with_path(decays, params)


def openai_adam(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the authors' Adam "with weight decay fix" (their opt.py), for t counted from 1:

    rate = schedule(t − 1) · √(1 − β₂ᵗ) / (1 − β₁ᵗ); p ← p − rate · (m / (√v + ε) + decay · p).

    Unlike in optax.adamw, ε stands outside the bias correction, and the correction also scales the decay.
    """
    beta1, beta2 = config.beta1, config.beta2

    def init(params: Any) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        t = (state.count + 1).astype(jnp.float32)
        correction = jnp.sqrt(_one_minus_power(beta2, t)) / _one_minus_power(beta1, t)
        rate: Any = schedule(state.count) * correction
        mean = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        variance = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, updates)

        def change(p: jax.Array, m: jax.Array, v: jax.Array, decays: bool) -> jax.Array:
            direction = m / (jnp.sqrt(v) + config.epsilon)
            return -rate * (direction + config.weight_decay * p if decays else direction)

        changes = jax.tree.map(change, params, mean, variance, decay_mask(config, params))
        return changes, optax.ScaleByAdamState(state.count + 1, mean, variance)

    return optax.GradientTransformation(init, update)


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the named update rule, preceded by clipping to a global norm of all gradients."""
    if config.name == "openai_adam":
        rule = openai_adam(config, schedule)
    else:
        rule = optax.adamw(
            schedule,
            config.beta1,
            config.beta2,
            config.epsilon,
            weight_decay=config.weight_decay,
            mask=partial(decay_mask, config),
        )
    clip = clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    # This is a chain even without clipping, since a resumed run may change clip_norm.
    return optax.chain(clip, rule)


def applied_updates(optimizer_state: Any) -> jax.Array:
    """Returns how many updates an optimizer state has seen, int32."""
    return optax.tree_utils.tree_get_all_with_path(optimizer_state, "count")[0][1]


def _one_minus_power(beta: float, t: jax.Array) -> jax.Array:
    return -jnp.expm1(t * jnp.log(jnp.float32(beta))) if beta else jnp.float32(1)
