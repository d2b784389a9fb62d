"""The error and time of each form of attention, forward and backward: python -m benchmarks.attention.

Errors are relative to the plain form in float32 on the same bfloat16 inputs; times are medians of interleaved rounds.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks.timing import conclude, measure
from gpt1_jax.config import MeshConfig
from gpt1_jax.devices.mesh import make_mesh
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.model.dropout import Dropout
from gpt1_jax.model.kernels.choice import FORMS

_SHAPE = flags.DEFINE_string("shape", "64x512x12x64", "sequences × positions × heads × head width")
_ROUNDS = flags.DEFINE_integer("rounds", 30, "rounds of timing", 1)
_ALSO = flags.DEFINE_list("also", [], "further forms to compare, as MODULE:FUNCTION")
_RATE = 0.1


def main(_: list[str]) -> None:
    """Prints a line for each form and dropout rate, then the same in JSON."""
    facts = compare(_SHAPE.value, _ROUNDS.value, _ALSO.value)
    conclude(shape=_SHAPE.value, forms=facts)


def compare(shape: str, rounds: int, also: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Compares the forms of attention that run here, and prints a line for each.

    Args:
        shape: sequences × positions × heads × head width.
        rounds: of timing.
        also: further forms, as MODULE:FUNCTION, called as those of `kernels.choice`.

    Returns:
        For each form and rate of dropout its "errors" and "milliseconds".

    Raises:
        UserError: the shape is none, or there is no such function.
    """
    try:
        batch, length, heads, width = map(int, shape.split("x"))
    except ValueError:
        raise UserError(f"--shape={shape} is not a shape; write one such as 64x512x12x64.") from None
    backend = jax.default_backend()
    library = {"gpu": ["cudnn"], "tpu": ["splash"]}.get(backend, [])
    further = {name: _find(name) for name in also}
    forms = ["plain", "chunked", *(["flash"] if backend in ("gpu", "tpu") else []), *further]
    cases = [(form, _RATE) for form in forms] + [(form, 0.0) for form in forms + library]
    facts = []
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 1))):
        noise = jnp.arange(batch, dtype=jnp.uint32)
        drawn = jax.random.normal(jax.random.key(0), (4, batch, length, heads, width))
        inputs = [x.astype(jnp.bfloat16) for x in drawn]
        runs = {}
        for form, rate in cases:
            run = _forward_and_backward((FORMS | further)[form], rate, noise, length)
            try:
                found = jax.block_until_ready(run(*inputs))
            except Exception as error:  # a form that does not compile here is a finding
                print(f"{form:8} dropout {rate}: fails ({str(error)[:200]})", flush=True)
                continue
            runs[form, rate] = run
            errors = _errors(found, inputs, rate, noise, length)
            facts.append({"form": form, "dropout": rate, "errors": errors})
        rows = measure({str(case): partial(run, *inputs) for case, run in runs.items()}, rounds)
    for fact, row in zip(facts, rows, strict=True):
        fact["milliseconds"] = 1e3 * row.seconds.median
        errors = " ".join(f"{error:.4f}" for error in fact["errors"])
        print(
            f"{fact['form']:8} dropout {fact['dropout']}: {fact['milliseconds']:.3f} ms, errors of output and "
            f"gradients {errors}",
            flush=True,
        )
    return facts


def _find(name: str) -> Any:
    """Returns the function that MODULE:FUNCTION names."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"--also={name} is not a form of attention ({error}); write MODULE:FUNCTION."
        ) from error


def _forward_and_backward(form: Any, rate: float, noise: jax.Array, length: int) -> Callable[..., Any]:
    attend = partial(form, dropout=Dropout(noise, 1, rate, length))

    @jax.jit
    def run(query: jax.Array, key: jax.Array, value: jax.Array, cotangent: jax.Array) -> Any:
        output, pull = jax.vjp(attend, query, key, value)
        return output, *pull(cotangent)

    return run


def _errors(found: Any, inputs: list[jax.Array], rate: float, noise: jax.Array, length: int) -> list[float]:
    """Returns the errors of output and gradients, on the first two sequences."""
    with jax.default_matmul_precision("highest"):
        exact = _forward_and_backward(FORMS["plain"], rate, noise[:2], length)
        right = exact(*(x[:2].astype(jnp.float32) for x in inputs))
    return [
        float(jnp.linalg.norm(ours[:2].astype(jnp.float32) - truth) / jnp.linalg.norm(truth))
        for ours, truth in zip(found, right, strict=True)
    ]


if __name__ == "__main__":
    door(main)
