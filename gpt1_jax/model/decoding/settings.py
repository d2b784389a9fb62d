"""How texts are continued: the settings of `generate`, and the ranges in which they mean something.

A setting counts in the dtype in which the model's arithmetic has it, float32 or int32: within the ranges none of them
becomes zero, infinite or another number there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

import numpy as np

from gpt1_jax.arguments import check_ids, check_integer, check_number, shown
from gpt1_jax.errors import UserError

BeyondContext = Literal["stop", "slide", "refuse"]

# What int32 holds.
_MOST_TOKENS = 2**31 - 1
_MOST_SAMPLES = 100_000
# Devices treat smaller numbers as zero.
_LEAST_TEMPERATURE = float(np.finfo(np.float32).tiny)
_MOST_TEMPERATURE = float(np.finfo(np.float32).max)
# Any logit times or over this stays within float32.
_LARGEST_PENALTY = 1e30
# 2**20 tokens to this power stay within float32, and so does a score over that.
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
        max_new_tokens: of each sample.
        temperature: divides the logits; 0 takes the most probable token.
        top_k: draws from so many of the most probable tokens; 0 from all.
        top_p: draws from the fewest most probable tokens that together have this probability.
        repetition_penalty: a logit of a token that the text has already is divided by it, or multiplied where it is
            negative.
        num_beams: above 1 it is beam search, which draws nothing and so takes none of top_k, top_p,
            repetition_penalty, seed and a temperature above 0.
        length_penalty: of beam search: the sum of log-probabilities is divided by the length to this power.
        num_samples: of each prompt; of beam search the best so many.
        seed: with it the samples of a prompt at its place are the same every time, whatever the other prompts.
        stop: tokens that end a sample; they are its last.
        beyond_context: what happens at the end of the positions the model has learned: the sample stops, or the window
            slides: its later half becomes the beginning of the next; or a prompt that leaves no room for max_new_tokens
            is refused.
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
        """The same settings as Python's own numbers.

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
                raise UserError(f"{name}={shown(getattr(self, name))} is out of range: expected {expected}.")

    def _check_unused(self) -> None:
        """Refuses what would be ignored in silence."""
        plain = Generation()
        if self.num_beams == 1:
            if self.length_penalty != plain.length_penalty:
                raise UserError(
                    f"length_penalty={self.length_penalty} is of beam search; set num_beams, or leave it out."
                )
            return
        for name in ("temperature", "top_k", "top_p", "repetition_penalty", "seed"):
            # Greedy sampling draws nothing either.
            greedy = name == "temperature" and self.temperature == 0
            if getattr(self, name) != getattr(plain, name) and not greedy:
                raise UserError(
                    f"{name}={getattr(self, name)} does not go with num_beams={self.num_beams}: beam search draws "
                    "nothing; leave one of them out."
                )
        if self.num_samples > self.num_beams:
            raise UserError(
                f"num_samples={self.num_samples} is more than num_beams={self.num_beams}; set at most as many."
            )
        if self.beyond_context == "slide":
            raise UserError(
                "beyond_context=slide does not go with num_beams: beams share one window; set stop or refuse."
            )
