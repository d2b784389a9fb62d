"""What stands around the texts of an example: the three tokens of the paper's figure 1, or BERT's [CLS] and [SEP]."""

from typing import NamedTuple

from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.model.specials import special_ids


class Frame(NamedTuple):
    """The tokens around the texts of an example.

    Attributes:
        start: begins a sequence. A model that reads both ways has its class, and its "no answer", there.
        delimiter: stands between two texts.
        end: ends a sequence. A causal model has its class, and its "no answer", there, since it has read all by then.
        both_ways: whether the model reads both ways; then its sequences have token types, and padding is no key.
    """

    start: int
    delimiter: int
    end: int
    both_ways: bool

    def word_place(self, pieces: int) -> int:
        """Returns which of a word's pieces carries its tag.

        Both ways that is the first piece, as in BERT's paper. A causal model has read the whole word at its last piece.
        """
        return 0 if self.both_ways else pieces - 1


def make_frame(tokenizer: Tokenizer, causal: bool) -> Frame:
    """Returns the frame of a model's examples.

    Raises:
        UserError: the model reads both ways, but its tokenizer has no [CLS] or [SEP].
    """
    if causal:
        return Frame(*special_ids(tokenizer.vocab_size), both_ways=False)
    known = tokenizer.special_ids
    if not {"cls", "sep"} <= known.keys():
        raise UserError(
            "model.causal=False needs a tokenizer with the pieces [CLS] and [SEP], which data.tokenizer lacks; start "
            "from a run whose tokenizer has them, such as wordpiece."
        )
    return Frame(known["cls"], known["sep"], known["sep"], both_ways=True)
