"""Settings of `generate`: whatever is accepted gives probabilities, and what would be ignored is refused."""

import dataclasses
import inspect
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt1_jax.errors import UserError
from gpt1_jax.model.decoding.sampling import Sampling, adjusted, sampling_of
from gpt1_jax.model.decoding.settings import Generation, Settings
from gpt1_jax.usage.trained import TrainedRun

PIECES = 11

ANY_FLOAT = st.floats() | st.sampled_from([1e-46, 1e-45, 1e-40, 1.2e-38, 1e-30, 1e30, 3.4e38, 3.5e38, 1e300])
ANY_INTEGER = (
    st.integers() | st.integers(-1, 2 * PIECES) | st.sampled_from([3_000_000_000, 10**30, -(10**30)])
)


@jax.jit
def chances(logits: jax.Array, sampling: Sampling, seen: jax.Array) -> jax.Array:
    return jax.nn.softmax(adjusted(logits[None], sampling, seen[None]))[0]


@given(
    temperature=ANY_FLOAT,
    top_k=ANY_INTEGER,
    top_p=ANY_FLOAT,
    penalty=ANY_FLOAT,
    scale=st.sampled_from([0.0, 1e-30, 1.0, 30.0, 1e4]),
    draw=st.integers(0, 2**32 - 1),
)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_every_accepted_setting_gives_probabilities(
    temperature: float, top_k: int, top_p: float, penalty: float, scale: float, draw: int
) -> None:
    try:
        chosen = Generation(
            temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty
        ).checked(PIECES)
    except UserError:
        return
    generator = np.random.default_rng(draw)
    logits = jnp.asarray(generator.normal(0, scale, PIECES), jnp.float32)
    seen = jnp.asarray(generator.random(PIECES) < 0.5)
    sampling = sampling_of(chosen, PIECES)
    found = np.asarray(chances(logits, sampling, seen))
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1, abs=1e-5)
    if temperature:
        greedy = adjusted(logits[None], sampling._replace(temperature=None), seen[None])[0]
        assert found[greedy.argmax()] == found.max()


@pytest.mark.parametrize("temperature", [1.2e-38, 1e-30, 1e-9])
def test_the_lowest_temperatures_take_the_most_probable_token(temperature: float) -> None:
    logits = np.random.default_rng(3).normal(0, 30, PIECES).astype(np.float32)
    chosen = Generation(temperature=temperature, top_p=1e-40, top_k=10**30).checked(PIECES)
    found = chances(jnp.asarray(logits), sampling_of(chosen, PIECES), jnp.zeros(PIECES, bool))
    assert found.argmax() == logits.argmax() and found.max() == 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"temperature": 1e-40}, "temperature=1e-40 .* 0 .the most probable token., or 1.2e-38 to 3.4e.38"),
        ({"temperature": 1e39}, "temperature=1e.39"),
        ({"temperature": 10**400}, "temperature=inf"),
        ({"temperature": "0.7"}, "temperature='0.7' is not a number"),
        ({"temperature": None}, "temperature=None is not a number"),
        ({"temperature": True}, "temperature=True is not a number"),
        ({"top_p": 0}, "top_p=0.0"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty=1e-40 .* 1e-30 to 1e.30"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty=inf"),
        ({"length_penalty": 1e6, "num_beams": 2}, "length_penalty=1000000.0 .* -5 to 5"),
        ({"max_new_tokens": 10**30}, "max_new_tokens=10{30} .* 1 to 2147483647"),
        ({"max_new_tokens": 5.0}, "max_new_tokens=5.0 is not a whole number"),
        ({"max_new_tokens": False}, "max_new_tokens=False is not a whole number"),
        ({"num_samples": 10**9}, "num_samples=10{9} .* 1 to 100000"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"stop": ["."]}, r"stop holds '\.', expected a list of ids from 0 to 10"),
        ({"stop": [[1, 2]]}, r"stop holds \[1, 2\]"),
        ({"stop": 3}, "stop=3 is not a list of ids"),
        ({"stop": b"\x01"}, "stop=b.* is not a list of ids"),
        ({"stop": [2.0]}, "stop holds 2.0"),
        ({"stop": [True]}, "stop holds True"),
        ({"beyond_context": ["stop"]}, "beyond_context=.* one of stop, slide, refuse"),
        ({"num_beams": 2, "temperature": 0.5}, "temperature=0.5 does not go with num_beams=2"),
        ({"num_beams": 2, "seed": 1}, "seed=1 does not go with num_beams=2"),
        ({"length_penalty": 2.0}, "length_penalty=2.0 belongs to beam search"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        Generation(**wrong).checked(PIECES)
    assert len(str(caught.value)) < 250


def test_a_number_longer_than_python_writes_is_refused_too() -> None:
    for wrong, told in (
        (10**5000, "num_beams=a very long int is out"),
        ([10**5000], "num_beams=a very long list"),
    ):
        with pytest.raises(UserError, match=told):
            Generation(num_beams=wrong).checked(PIECES)  # pyright: ignore[reportArgumentType]


def test_numbers_of_numpy_become_pythons() -> None:
    chosen = Generation(
        max_new_tokens=np.int64(5),  # pyright: ignore[reportArgumentType]
        temperature=np.float32(0.5),  # pyright: ignore[reportArgumentType]
        stop=np.array([3, 3, 4]),  # pyright: ignore[reportArgumentType]
    ).checked(PIECES)
    assert (chosen.max_new_tokens, chosen.temperature, chosen.stop) == (5, 0.5, (3, 4))
    assert [type(value) for value in (chosen.max_new_tokens, chosen.temperature)] == [int, float]


def test_python_names_every_setting_with_its_type_and_default() -> None:
    """What an editor completes is what there is."""
    parameters = inspect.signature(TrainedRun.generate).parameters
    for field in dataclasses.fields(Generation):
        assert parameters[field.name].default == field.default
        assert parameters[field.name].kind == inspect.Parameter.KEYWORD_ONLY
    fields = {field.name for field in dataclasses.fields(Generation)}
    assert set(typing.get_type_hints(Settings)) == fields
    assert set(parameters) - fields == {"self", "prompt", "watch", "number"}
