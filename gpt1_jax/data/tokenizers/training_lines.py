"""The sample of a text that a tokenizer is trained on."""

import heapq
import random
from collections.abc import Iterator

from gpt1_jax.errors import UserError

# More training text would change the pieces little and cost minutes.
_TRAINING_CHARACTERS = 20_000_000
# SentencePiece silently skips training lines of more than 4192 bytes, so longer lines are cut.
_LINE_CHARACTERS = 1000


def sample_lines(texts: Iterator[str]) -> list[str]:
    """Returns an even sample of the texts' lines, in order: those that drew the smallest random numbers.

    Raises:
        UserError: the texts are empty.
    """
    generator = random.Random(0)
    # A heap, whose first entry is the next to be dropped.
    kept: list[tuple[float, int, str]] = []
    size = count = 0
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _LINE_CHARACTERS):
                piece = line[start : start + _LINE_CHARACTERS]
                heapq.heappush(kept, (-generator.random(), count, piece))
                count += 1
                size += len(piece)
                while size > _TRAINING_CHARACTERS:
                    size -= len(heapq.heappop(kept)[2])
    if not kept:
        raise UserError(
            "data.source has no text to train a tokenizer on; name a source whose documents have words."
        )
    return [piece for _, _, piece in sorted(kept, key=lambda entry: entry[1])]
