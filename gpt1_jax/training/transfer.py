"""Starts one run from the parameters of another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpt1_jax.config import Config, schema
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.model.output import BEHIND
from gpt1_jax.overrides import flatten, to_dict
from gpt1_jax.run import Run
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.chosen import restore_chosen
from gpt1_jax.training.kept import sound_tokenizer


def check_start(config: Config, init_from: str, tokenizer: Tokenizer) -> None:
    """Checks that the parameters of another run fit.

    Raises:
        UserError: that run has another architecture, another tokenizer, or no checkpoint.
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
    """Returns the trunk's parameters of a pre-trained or fine-tuned run, from the checkpoint that it opens with.

    Args:
        run: the run directory.
        abstract: shapes, dtypes and shardings of the parameters.
        tell: receives lines about damaged checkpoints that are skipped.

    Raises:
        UserError: there is not a checkpoint, or no sound one.
    """
    wrapped = run.config().finetune is not None
    parts = {"params": {"trunk": abstract} if wrapped else abstract}
    restored = restore_chosen(run, parts, None, tell)
    return restored["params"]["trunk"] if wrapped else restored["params"]


def transfer(fresh: Any, trained: Any, vocab_size: int, num_blocks: int | None) -> Any:
    """Returns a fresh trunk's parameters in which a trained trunk's take their place, like the authors' n_transfer.

    The embeddings of the specials stay fresh, and so does what lies behind the last block if not all blocks are taken.
    This works under jit or outside, and on sharded arrays.

    Args:
        fresh, trained: parameters of two trunks of one architecture.
        vocab_size: V, the number of rows of the token table that belong to the tokenizer.
        num_blocks: the number of blocks to take, from the first; None means all, 0 only embeddings, −1 nothing.
    """
    if num_blocks == -1:
        return fresh
    row = jnp.arange(fresh["tokens"].shape[0])[:, None]
    blocks, behind = trained["blocks"], {}
    if num_blocks is not None:
        if num_blocks < len(jax.tree.leaves(blocks)[0]):
            behind = {name: array for name, array in fresh.items() if name.startswith(BEHIND)}
        blocks = jax.tree.map(
            lambda old, new: jnp.concatenate([old[:num_blocks], new[num_blocks:]]), blocks, fresh["blocks"]
        )
    return {
        **trained,
        **behind,
        "tokens": jnp.where(row < vocab_size, trained["tokens"], fresh["tokens"]),
        "blocks": blocks,
    }
