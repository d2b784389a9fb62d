"""From one format to another: read, checked whole, written whole."""

import dataclasses
import os
from pathlib import Path

from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.opening import Tokenizer, open_tokenizer
from gpt1_jax.devices.hosts import tell
from gpt1_jax.disk.paths import expand_local
from gpt1_jax.errors import UserError
from gpt1_jax.interop.files import check_target, shown, whole_directory
from gpt1_jax.interop.huggingface import CLASSIFIER_KINDS, read_huggingface, write_huggingface
from gpt1_jax.interop.openai import HEAD_WIDTH, read_openai, write_openai
from gpt1_jax.interop.published import TOKENS, LanguageModel, check_finite
from gpt1_jax.interop.runs import read_run, write_run
from gpt1_jax.model.specials import SPECIALS


def convert(
    source_format: str,
    target_format: str,
    source: str,
    target: str,
    tokenizer: str | None = None,
    num_heads: int | None = None,
) -> None:
    """Converts the model in one directory to another; lines tell what cannot come along.

    Args:
        source_format, target_format: each `openai`, `huggingface` or `gpt1_jax`.
        source, target: the directories; the second must not exist, or be empty, and is complete or absent at the end.
        tokenizer: `openai:DIR` or `sentencepiece:FILE.model`, in place of the one that is found with the model.
        num_heads: of a model in the format `openai`, which does not tell it; None is one for each 64 of the width.

    Raises:
        UserError: something in the files, or that they do not fit each other or the new format.
    """
    if "://" in target:
        raise UserError(
            f"OUT={target} is in a bucket, where nothing is written whole; name a directory, and copy it there."
        )
    directory, place = expand_local(source, "IN"), Path(os.path.realpath(expand_local(target, "OUT")))
    check_target(directory, place)
    if not directory.is_dir():
        raise UserError(
            f"IN={source} is no directory; name one that holds a model in the format {source_format}."
        )
    if num_heads is not None and source_format != "openai":
        raise UserError(f"--num_heads={num_heads} goes with --from=openai alone; leave it out.")

    named = None if tokenizer is None else _open_named(tokenizer)

    # ── Read ─────────────────────────────────────────────────────────────────────────────────────────────────
    if source_format == "openai":
        model = read_openai(directory, num_heads, named)
    elif source_format == "huggingface":
        model = read_huggingface(directory, tell, named)
    else:
        model = read_run(str(directory))
        model = dataclasses.replace(model, tokenizer=named or model.tokenizer)
    model = _settle_head(_settle_tokens(model, source), target_format)
    check_finite(model)

    # ── Write ────────────────────────────────────────────────────────────────────────────────────────────────
    with whole_directory(place) as building:
        if target_format == "openai":
            write_openai(model, building)
        elif target_format == "huggingface":
            write_huggingface(model, building, tell)
        else:
            write_run(model, building, source_format)
    heads, width = model.config.num_heads, model.config.d_model
    if target_format == "openai" and heads * HEAD_WIDTH != width:
        tell(f"The format openai does not tell the number of heads: read {target} with --num_heads={heads}.")
    tell(f"{sum(array.size for array in model.weights.values()):,} parameters are in {target}.")


def _open_named(spec: str) -> Tokenizer:
    """The tokenizer that --tokenizer names."""
    tokenizer = open_tokenizer(spec)
    if tokenizer is None:
        raise UserError(f"--tokenizer={spec} names no files; write openai:DIR or sentencepiece:FILE.model.")
    return tokenizer


def _settle_tokens(model: LanguageModel, source: str) -> LanguageModel:
    """The model with as many rows in its token table as its tokenizer has pieces."""
    table, pieces = model.weights[TOKENS], model.tokenizer.vocab_size
    if isinstance(model.tokenizer, NoTokenizer):
        tell(
            f"{source} has no tokenizer, so the converted model reads and writes ids alone; give it one with "
            "--tokenizer=openai:DIR or --tokenizer=sentencepiece:FILE.model."
        )
    if model.added and len(table) == pieces + len(model.added):
        tell(
            f"The last {len(model.added)} rows of {TOKENS} are left out: they are the added tokens "
            f"{shown(', '.join(model.added))}, which are plain characters for the tokenizer here."
        )
    elif len(table) == pieces + SPECIALS:
        tell(f"The last {SPECIALS} rows of {TOKENS} are left out: they are fine-tuning's special tokens.")
    elif len(table) != pieces:
        raise UserError(
            f"The tokenizer has {pieces:,} pieces and the model {len(table):,} rows of {TOKENS}; name the "
            "tokenizer that it was trained with by --tokenizer."
        )
    weights = {name: array[:pieces] if name == TOKENS else array for name, array in model.weights.items()}
    return dataclasses.replace(model, weights=weights)


def _settle_head(model: LanguageModel, target_format: str) -> LanguageModel:
    """The model without its head where the new format cannot hold it."""
    if model.head is None:
        return model
    task = model.head.task
    if target_format != "huggingface":
        reason = f"the format {target_format} holds language models"
    elif task.kind not in CLASSIFIER_KINDS:
        reason = (
            f"transformers has no counterpart to a head of {task.kind}, over several sequences an example"
        )
    else:
        return model
    tell(f"The head of task {task.name} is left out: {reason}.")
    return dataclasses.replace(model, head=None)
