"""What a model makes of a text, token by token, as the explorer's page shows it.

Letters: T tokens, L layers, H heads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# The ids of the most probable pieces in one place with their probabilities, the best first.
Guesses = Sequence[tuple[int, float]]


class WordBits(NamedTuple):
    """A word of a text: where it begins and ends among the characters, and its surprisal."""

    start: int
    end: int
    bits: float | None


@dataclass(frozen=True)
class Reading:
    """What a model makes of the tokens of a text, or of the first of them.

    Attributes:
        run: the path by which the run is named.
        step: the step of its checkpoint.
        causal: whether the model predicts the next token; otherwise it fills masks.
        ids: the T ids that it reads.
        pieces: the text of each; "" for one that goes on a character that an earlier one begins.
        names: the text of each piece that is guessed, by its id.
        tokens: how many ids the whole text has, T or more.
        bits: the surprisal of each token: −log₂ of its probability after those before it, or where it alone is hidden.
            None where nothing predicts it.
        guesses: the most probable pieces behind each token, or in its place where it is hidden.
        lens: [L + 1, T] guesses from the states behind the embeddings and behind each block, read as if they were the
            last.
        follows: [L + 1, T], the probability there of the piece that does come next, or that does stand there; None
            where its surprisal is None.
        attention: float32 [L, H, T, T], as `TrainedRun.attention` has it.
        words: the words that these tokens spell whole.
    """

    run: str
    step: int
    causal: bool
    ids: Sequence[int]
    pieces: Sequence[str]
    names: Mapping[int, str]
    tokens: int
    bits: Sequence[float | None]
    guesses: Sequence[Guesses]
    lens: Sequence[Sequence[Guesses]]
    follows: Sequence[Sequence[float | None]]
    attention: np.ndarray
    words: Sequence[WordBits]
