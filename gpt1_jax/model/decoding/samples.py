"""Samples: what a text is continued with, and how far one is that still grows."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from gpt1_jax.model.decoding.settings import Generation

Reason = Literal["length", "stop", "context"]


class Sample(NamedTuple):
    """A continuation: its tokens, the model's log-probability of each, why it ended, and a beam's score."""

    tokens: list[int]
    log_probabilities: list[float]
    reason: Reason
    score: float | None = None


@dataclass
class Growing:
    """A sample in progress.

    Attributes:
        text: the prompt, and the new tokens behind it.
        given: the length of the prompt.
        chances: the log-probability of each new token.
        start: where the window begins that the model sees.
    """

    text: list[int]
    given: int
    chances: list[float] = field(default_factory=list)
    start: int = 0

    @property
    def new(self) -> list[int]:
        """The new tokens."""
        return self.text[self.given :]

    @property
    def window(self) -> list[int]:
        """What the model sees."""
        return self.text[self.start :]

    def slide(self, context: int) -> None:
        """Begins a window anew, with the later half of a context, if it is full."""
        if len(self.window) >= context:
            self.start = len(self.text) - context // 2


def reason_of(tokens: list[int], settings: Generation) -> Reason:
    """Returns why a sample ended that has these new tokens."""
    if tokens and tokens[-1] in settings.stop:
        return "stop"
    return "length" if len(tokens) == settings.max_new_tokens else "context"
