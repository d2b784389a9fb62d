"""How texts are continued: the settings of `generate`, and the ranges in which they mean something.

The model's arithmetic takes each setting in float32 or int32. Within the ranges, no setting becomes zero, infinite or
another number by that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

import numpy as np

from gpt1_jax.arguments import check_ids, check_integer, check_number, shown
from gpt1_jax.errors import UserError

BeyondContext = Literal["stop", "slide", "refuse"]

# The largest number of int32.
_MOST_TOKENS = 2**31 - 1
_MOST_SAMPLES = 100_000
# Devices treat smaller numbers as zero.
_LEAST_TEMPERATURE = float(np.finfo(np.float32).tiny)
_MOST_TEMPERATURE = float(np.finfo(np.float32).max)
# A logit multiplied or divided by this stays within float32.
_LARGEST_PENALTY = 1e30
# A length of 2**20 tokens to this power stays within float32, and so does a score divided by it.
_LARGEST_POWER = 5.0


class Settings(TypedDict, total=False):
    """The keyword arguments of `generate`; `Generation` explains them."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    num_beams: int
    length_penalty: float
    num_samples: int
    seed: int
    stop: Sequence[int]
    beyond_context: BeyondContext


@dataclass(frozen=True)
class Generation:
    """How prompts are continued.

    Attributes:
        max_new_tokens: the most tokens that a sample adds.
        temperature: divides the logits; 0 takes the most probable token.
        top_k: draws from this many of the most probable tokens; 0 means all.
        top_p: draws from the fewest most probable tokens that together have this probability.
        repetition_penalty: divides the logits of tokens that the text already contains; negative ones are multiplied
            by it.
        num_beams: the width of beam search, if above 1. Beam search draws nothing, so it goes with none of top_k,
            top_p, repetition_penalty, seed, and a temperature above 0.
        length_penalty: in beam search, the sum of log-probabilities is divided by the length to this power.
        num_samples: how many samples of each prompt; beam search gives its best ones.
        seed: decides the samples; those of a prompt depend on its place, not on the other prompts.
        stop: tokens that end a sample; the sample keeps them.
        beyond_context: what happens behind the last position that the model has learned. With "stop" the sample ends.
            With "slide" the later half of the window becomes the beginning of the next. With "refuse" a prompt that
            leaves no room for max_new_tokens is an error.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    num_samples: int = 1
    seed: int = 0
    stop: Sequence[int] = ()
    beyond_context: BeyondContext = "stop"

    def checked(self, vocab_size: int) -> "Generation":
        """Returns the same settings as Python's own numbers.

        Raises:
            UserError: a field is of another type or out of its range, or fields do not go together.
        """
        integers = ("max_new_tokens", "top_k", "num_beams", "num_samples", "seed")
        reals = ("temperature", "top_p", "repetition_penalty", "length_penalty")
        values: dict[str, Any] = {name: check_integer(getattr(self, name), name) for name in integers}
        values |= {name: check_number(getattr(self, name), name) for name in reals}
        stop = tuple(dict.fromkeys(check_ids(self.stop, "stop", vocab_size)))
        settings = replace(self, stop=stop, **values)
        settings._check_ranges(vocab_size)
        settings._check_unused()
        return settings

    def _check_ranges(self, vocab_size: int) -> None:
        temperature, penalty = self.temperature, self.repetition_penalty
        for name, valid, expected in (
            ("max_new_tokens", 1 <= self.max_new_tokens <= _MOST_TOKENS, f"1 to {_MOST_TOKENS}"),
            (
                "temperature",
                temperature == 0 or _LEAST_TEMPERATURE <= temperature <= _MOST_TEMPERATURE,
                f"0 (the most probable token), or {_LEAST_TEMPERATURE:.2g} to {_MOST_TEMPERATURE:.2g} (float32's)",
            ),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            (
                "repetition_penalty",
                1 / _LARGEST_PENALTY <= penalty <= _LARGEST_PENALTY,
                f"{1 / _LARGEST_PENALTY:g} to {_LARGEST_PENALTY:g}",
            ),
            ("num_beams", 1 <= self.num_beams <= vocab_size, f"1 to {vocab_size}, the number of pieces"),
            (
                "length_penalty",
                abs(self.length_penalty) <= _LARGEST_POWER,
                f"-{_LARGEST_POWER:g} to {_LARGEST_POWER:g}",
            ),
            ("num_samples", 1 <= self.num_samples <= _MOST_SAMPLES, f"1 to {_MOST_SAMPLES}"),
            ("seed", 0 <= self.seed < 2**32, "0 to 2**32 - 1"),
            (
                "beyond_context",
                self.beyond_context in ("stop", "slide", "refuse"),
                "one of stop, slide, refuse",
            ),
        ):
            if not valid:
                raise UserError(f"{name}={shown(getattr(self, name))} is out of range; set {expected}.")

    def _check_unused(self) -> None:
        """Refuses settings that would have no effect."""
        plain = Generation()
        if self.num_beams == 1:
            if self.length_penalty != plain.length_penalty:
                raise UserError(
                    f"length_penalty={self.length_penalty} belongs to beam search; set num_beams, or leave it out."
                )
            return
        for name in ("temperature", "top_k", "top_p", "repetition_penalty", "seed"):
            # Greedy sampling draws nothing either.
            greedy = name == "temperature" and self.temperature == 0
            if getattr(self, name) != getattr(plain, name) and not greedy:
                raise UserError(
                    f"{name}={getattr(self, name)} does not go with num_beams={self.num_beams}, because beam search "
                    "draws nothing; leave one of them out."
                )
        if self.num_samples > self.num_beams:
            raise UserError(
                f"num_samples={self.num_samples} is more than num_beams={self.num_beams}; set at most as many."
            )
        if self.beyond_context == "slide":
            raise UserError(
                "beyond_context=slide does not go with num_beams, because beams share one window; set stop or refuse."
            )
