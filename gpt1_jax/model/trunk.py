"""The network between the token table and what reads its states, as config.kind names it.

Letters: B sequences, T positions, D width.
"""

from gpt1_jax.config import ModelConfig
from gpt1_jax.model.lstm import LSTM
from gpt1_jax.model.transformer import Transformer

Trunk = Transformer | LSTM


def make_trunk(config: ModelConfig, vocab_size: int, specials: int = 0) -> Trunk:
    """The trunk of a config: tokens int32 [B, T], noise uint32 [B] or None → states [B, T, D].

    Args:
        config: the sizes and rates.
        vocab_size: the tokenizer's pieces.
        specials: how many of the token table's further rows are in use.
    """
    kinds = {"transformer": Transformer, "lstm": LSTM}
    return kinds[config.kind](config, vocab_size, specials)


def used_rows(trunk: Trunk) -> int:
    """The rows of the token table that are tokens: the pieces, and the specials in use."""
    return trunk.vocab_size + trunk.specials
