"""The network between the token table and the reader of its states, chosen by config.kind.

Letters: B sequences, T positions, D width.
"""

from gpt1_jax.config import ModelConfig
from gpt1_jax.model.lstm import LSTM
from gpt1_jax.model.transformer import Transformer

Trunk = Transformer | LSTM


def make_trunk(config: ModelConfig, vocab_size: int, specials: int = 0) -> Trunk:
    """Makes the trunk of a config: tokens int32 [B, T], noise uint32 [B] or None → states [B, T, D].

    Args:
        config: the sizes and rates.
        vocab_size: the number of the tokenizer's pieces.
        specials: the number of the token table's further rows that are in use.
    """
    kinds = {"transformer": Transformer, "lstm": LSTM}
    return kinds[config.kind](config, vocab_size, specials)


def used_rows(trunk: Trunk) -> int:
    """Returns the number of rows of the token table that are tokens: the pieces and the specials in use."""
    return trunk.vocab_size + trunk.specials
