"""Parameters of one run as the beginning of another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpt1_jax.config import Config, schema
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.overrides import flatten, to_dict
from gpt1_jax.run import Run
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.kept import sound_tokenizer


def check_start(config: Config, init_from: str, tokenizer: Tokenizer) -> None:
    """Refuses a run to start from whose parameters do not fit.

    Raises:
        UserError: another architecture, another tokenizer, or no checkpoint.
    """
    start = Run(init_from, "init_from")
    mine, theirs = flatten(to_dict(config)), flatten(to_dict(start.config()))
    for name in (key.name for key in schema().values() if key.architecture):
        ours, its = mine.get(name), theirs.get(name)
        if ours != its:
            raise UserError(
                f"init_from={init_from} has {name}={its}, this config has {ours}; set {name}={its}."
            )
    if sound_tokenizer(start).fingerprint() != tokenizer.fingerprint():
        raise UserError(
            f"data.tokenizer={config.data.tokenizer} is not the tokenizer of init_from={init_from}; leave it out, or "
            "set data.tokenizer=sentencepiece, to read with that run's own."
        )
    if not Checkpoints(start.checkpoints).steps():
        raise UserError(f"init_from={init_from} has no checkpoint yet; name a run that has saved one.")


def load_trunk(run: Run, abstract: Any, tell: Callable[[str], None]) -> Any:
    """The trunk's parameters of a run's newest sound checkpoint, whether it was pre-trained or fine-tuned.

    Args:
        run: the run directory.
        abstract: shapes, dtypes and shardings of the parameters.
        tell: is told of damaged checkpoints that are passed over.

    Raises:
        UserError: there is no checkpoint, or none is sound.
    """
    wrapped = run.config().finetune is not None
    parts = {"params": {"trunk": abstract} if wrapped else abstract}
    restored = Checkpoints(run.checkpoints).restore_newest(parts, tell)
    if restored is None:
        raise UserError(f"{run.directory} has no checkpoint yet; name a run that has saved one.")
    return restored["params"]["trunk"] if wrapped else restored["params"]


def transfer(fresh: Any, trained: Any, vocab_size: int, num_blocks: int | None) -> Any:
    """A fresh trunk's parameters with those of a trained one in their place, as the authors' n_transfer has it.

    The embeddings of the specials stay fresh. Runs under jit or not, on sharded arrays.

    Args:
        fresh, trained: parameters of two trunks of one architecture.
        vocab_size: V, the rows of the token table that are the tokenizer's.
        num_blocks: how many blocks are taken, from the first; None is all, 0 only the embeddings, −1 nothing.
    """
    if num_blocks == -1:
        return fresh
    row = jnp.arange(fresh["tokens"].shape[0])[:, None]
    blocks = trained["blocks"]
    if num_blocks is not None:
        blocks = jax.tree.map(
            lambda old, new: jnp.concatenate([old[:num_blocks], new[num_blocks:]]), blocks, fresh["blocks"]
        )
    return {
        **trained,
        "tokens": jnp.where(row < vocab_size, trained["tokens"], fresh["tokens"]),
        "blocks": blocks,
    }
