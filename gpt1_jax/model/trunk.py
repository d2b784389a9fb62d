"""The network between the token table and what reads its states, as config.kind names it."""

from gpt1_jax.config import ModelConfig
from gpt1_jax.model.lstm import LSTM
from gpt1_jax.model.transformer import Transformer

Trunk = Transformer | LSTM


def make_trunk(config: ModelConfig, vocab_size: int, specials: int = 0) -> Trunk:
    """The trunk of a config: tokens int32 [B, T], noise uint32 [B] or None → states [B, T, D].

    Args:
        vocab_size: the tokenizer's pieces.
        specials: how many of the token table's further rows are in use.
    """
    kinds = {"transformer": Transformer, "lstm": LSTM}
    return kinds[config.kind](config, vocab_size, specials)
