"""What a model makes of a text, token by token: an object that shows itself in a notebook and can be saved as a page.

Letters: T positions, L layers, H heads.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from gpt1_jax.arguments import check_path, check_text, shown
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.disk.paths import expand
from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.errors import UserError
from gpt1_jax.pages.explained import Guesses, Reading, WordBits
from gpt1_jax.pages.explorer import make_explorer
from gpt1_jax.usage.lens import Guessed, read_hidden, read_layers
from gpt1_jax.usage.states import check_transformer, surround
from gpt1_jax.usage.words import find_words, spell
from gpt1_jax.wording import counted

if TYPE_CHECKING:
    from gpt1_jax.usage.trained import TrainedRun

# The page has at most so many tokens, and so many weights of attention, of which each is a byte.
_MOST_TOKENS = 128
_MOST_WEIGHTS = 2**21
_GUESSES, _LENS_GUESSES = 10, 5
_PART = "\N{REPLACEMENT CHARACTER}"
_PIXELS = 760
_BITS = -1 / math.log(2)


@dataclass(frozen=True)
class Explanation:
    """What one model, or two of them, make of a text.

    Attributes:
        text: the text.
        readings: what each model makes of it.
    """

    text: str
    readings: tuple[Reading, ...]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a page that opens anywhere, without a network.

        Raises:
            UserError: the path is none, or one of a directory.
        """
        target = expand(check_path(path, "path"), "path")
        if target.is_dir():
            raise UserError(f"path={target} is a directory; name a file in it.")
        write_whole(target, self.page())

    def page(self) -> str:
        """Returns the page's HTML."""
        return make_explorer(self.text, self.readings)

    def __repr__(self) -> str:
        """Says which runs read how many tokens of which text."""
        runs = ", ".join(reading.run for reading in self.readings)
        return f"Explanation({runs}: {counted(len(self.readings[0].ids), 'token')} of {shown(self.text)})"

    def _repr_html_(self) -> str:
        # In a frame of its own the page neither sees nor changes the notebook.
        return (
            f'<iframe srcdoc="{escape(self.page())}" sandbox="allow-scripts" title="Explanation" '
            f'style="width:100%;height:{_PIXELS}px;border:0;resize:vertical"></iframe>'
        )


def explain(trained: "TrainedRun", text: object, beside: "TrainedRun | None" = None) -> Explanation:
    """Returns what a model makes of a text, see `TrainedRun.explain`."""
    checked = check_text(text, "text")
    if beside is not None and not isinstance(beside, type(trained)):
        raise UserError(f"beside={shown(beside)} is not a run; give one that gpt1_jax.load has opened.")
    runs = [trained] if beside is None else [trained, beside]
    return Explanation(checked, tuple(_read(run, checked, _MOST_WEIGHTS // len(runs)) for run in runs))


def _read(trained: "TrainedRun", text: str, most: int) -> Reading:
    """Returns what a model makes of a text's tokens, as many as have at most `most` weights of attention."""
    model, tokenizer = check_transformer(trained, "An explanation").config, trained.tokenizer
    own = tokenizer.encode(text)
    before, behind = _frame(trained)
    # In a causal model a position reads itself and those before it, about half of all.
    fitting = math.isqrt(most * (1 + model.causal) // (model.num_layers * model.num_heads))
    room = min(model.context_length, _MOST_TOKENS, fitting) - len(before) - len(behind)
    kept = own[: max(room, 1)]
    ids = [*before, *kept, *behind]
    if not ids:
        raise UserError(f"text={shown(text)} has no tokens; write a word.")
    number = min(_GUESSES, tokenizer.vocab_size)
    layers, attention = read_layers(trained, ids, [*ids[1:], 0] if model.causal else ids, number)
    if model.causal:
        last = Guessed(*(part[-1] for part in layers))
        bits = [None, *(_BITS * last.asked[:-1]).tolist()]
        guesses = _guesses(last)
    else:
        places = range(len(before), len(ids) - len(behind))
        hidden = read_hidden(trained, ids, places, number)
        bits = [None] * len(before) + (_BITS * hidden.asked).tolist() + [None] * len(behind)
        bits = [None if id == tokenizer.special_ids["mask"] else x for id, x in zip(ids, bits, strict=True)]
        guesses = [[] for _ in before] + _guesses(hidden) + [[] for _ in behind]
    true = [*bits[1:], None] if model.causal else bits
    lens = [_guesses(Guessed(*layer), _LENS_GUESSES) for layer in zip(*layers, strict=True)]
    guessed = {id for row in (guesses, *lens) for place in row for id, _ in place}
    return Reading(
        run=str(trained.run.directory),
        step=trained.step,
        causal=model.causal,
        ids=ids,
        pieces=[
            *(_name(tokenizer, id) for id in before),
            *(piece or "" for piece in spell(tokenizer, kept)),
            *(_name(tokenizer, id) for id in behind),
        ],
        names={id: _name(tokenizer, id) for id in sorted(guessed)},
        tokens=len(ids) + len(own) - len(kept),
        bits=bits,
        guesses=guesses,
        lens=lens,
        follows=[
            [None if unknown is None else chance for chance, unknown in zip(layer, true, strict=True)]
            for layer in np.exp(layers.asked, dtype=np.float64).tolist()
        ],
        attention=attention,
        words=_words(tokenizer, text, own, bits[len(before) : len(before) + len(kept)]),
    )


def _frame(trained: "TrainedRun") -> tuple[list[int], list[int]]:
    """Returns the pieces that the model reads before and behind a text, as it did in training.

    Raises:
        UserError: the model fills masks, and its tokenizer has none.
    """
    special, end = trained.tokenizer.special_ids, trained.tokenizer.end_id
    if trained.config.model.causal:
        return ([] if end is None else [end]), []
    if "mask" not in special:
        raise UserError(
            f"{trained.run.directory} has a model that fills masks, and a tokenizer without one; convert it again with "
            "--tokenizer=huggingface:DIR."
        )
    around = surround(trained, [special["mask"]])
    return around[:1] * (len(around) > 1), around[2:]


def _name(tokenizer: Tokenizer, id: int) -> str:
    """Returns how a piece is shown: its text, or a name if it has none, or spells but a part of a character."""
    names = {special: f"[{role.upper()}]" for role, special in tokenizer.special_ids.items()}
    text = names.get(id) or tokenizer.decode([id])
    if _PART in text:
        return f"{_PART}{id}"
    return text or ("⟨end⟩" if id == tokenizer.end_id else f"⟨{id}⟩")


def _guesses(guessed: Guessed, most: int = _GUESSES) -> list[Guesses]:
    """Returns the ids and their probabilities in each of a row of places."""
    chances = np.exp(guessed.logprobs[:, :most], dtype=np.float64).tolist()
    ids = guessed.ids[:, :most].tolist()
    return [[*zip(some, row, strict=True)] for some, row in zip(ids, chances, strict=True)]


def _words(
    tokenizer: Tokenizer, text: str, ids: Sequence[int], bits: Sequence[float | None]
) -> list[WordBits]:
    """Returns the words of a text that its first tokens, whose bits are given, spell whole."""
    words = []
    for word in find_words(tokenizer, text, ids):
        if word.last <= len(bits):
            own = [x for x in bits[word.first : word.last] if x is not None]
            known = len(own) == word.last - word.first
            words.append(WordBits(word.start, word.end, math.fsum(own) if known else None))
    return words
