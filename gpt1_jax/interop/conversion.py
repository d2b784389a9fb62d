"""Converts a model from one format to another: reads it, checks it, and writes it whole or not at all."""

import dataclasses
import os
from pathlib import Path
from typing import TypedDict, Unpack

from gpt1_jax.arguments import Step
from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.opening import Tokenizer, open_tokenizer
from gpt1_jax.devices.hosts import tell
from gpt1_jax.disk.paths import expand_local
from gpt1_jax.errors import UserError
from gpt1_jax.interop.head_forms import why_not
from gpt1_jax.interop.huggingface import read_huggingface, write_huggingface
from gpt1_jax.interop.json_files import shown
from gpt1_jax.interop.openai import HEAD_WIDTH, read_openai, write_openai
from gpt1_jax.interop.published import LanguageModel, check_finite
from gpt1_jax.interop.run_directory import read_run, write_run
from gpt1_jax.interop.stablehlo import write_stablehlo
from gpt1_jax.interop.target import check_target, whole_directory
from gpt1_jax.model.specials import SPECIALS
from gpt1_jax.usage.trained import TrainedRun
from gpt1_jax.wording import counted


class Reading(TypedDict, total=False):
    """What the files of a source leave open; what is absent counts as None.

    Attributes:
        tokenizer: `openai:DIR`, `huggingface:DIR` or `sentencepiece:FILE.model`, which replaces the one found with
            the model.
        num_heads: the number of heads, which the format `openai` does not record; None means one for each 64 of the
            width.
        step: the checkpoint of a run, as `gpt1_jax.load` takes it.
        kind: what a BertForSequenceClassification reads: classification, entailment or similarity; None means the
            first.
    """

    tokenizer: str | None
    num_heads: int | None
    step: Step | None
    kind: str | None


def convert(
    source_format: str,
    target_format: str,
    source: str,
    target: str,
    **reading: Unpack[Reading],
) -> None:
    """Converts the model in one directory into another format; lines say what is left out.

    Args:
        source_format, target_format: each `openai`, `huggingface` or `gpt1_jax`; a run may become `stablehlo`.
        source, target: the directories; `target` must be absent or empty, and in the end it is complete or absent.
        **reading: what the files of the source leave open.

    Raises:
        UserError: a file is unusable, or the files fit neither each other nor the new format.
    """
    if "://" in target:
        raise UserError(
            f"OUT={target} is in a bucket, where no directory appears all at once; name a local one, and copy it there."
        )
    tokenizer, num_heads, step = reading.get("tokenizer"), reading.get("num_heads"), reading.get("step")
    kind = reading.get("kind")
    directory, place = expand_local(source, "IN"), Path(os.path.realpath(expand_local(target, "OUT")))
    check_target(directory, place)
    if not directory.is_dir():
        raise UserError(
            f"IN={source} is not a directory; name one that holds a model in the format {source_format}."
        )
    if num_heads is not None and source_format != "openai":
        raise UserError(f"--num_heads={num_heads} goes with --from=openai only; leave it out.")
    if step is not None and source_format != "gpt1_jax":
        raise UserError(f"--step={step} goes with --from=gpt1_jax only; leave it out.")
    if kind is not None and source_format != "huggingface":
        raise UserError(f"--kind={kind} goes with --from=huggingface only; leave it out.")

    if target_format == "stablehlo":
        if source_format != "gpt1_jax" or tokenizer is not None:
            raise UserError(
                "--to=stablehlo exports a run with its own tokenizer; convert IN to a run first (--to=gpt1_jax), and "
                "export that with --from=gpt1_jax."
            )
        with whole_directory(place) as building:
            write_stablehlo(TrainedRun(str(directory), step), building)
        tell(f"{target} has the program, its weights, and a README.md that loads them.")
        return

    named = None if tokenizer is None else _open_named(tokenizer)

    # ── Read ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    if source_format == "openai":
        model = read_openai(directory, num_heads, named)
    elif source_format == "huggingface":
        model = read_huggingface(directory, tell, named, kind)
    else:
        model = read_run(str(directory), step)
        model = dataclasses.replace(model, tokenizer=named or model.tokenizer)
    model = _settle_head(_settle_tokens(model, source), target_format)
    check_finite(model)

    # ── Write ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    with whole_directory(place) as building:
        if target_format == "openai":
            write_openai(model, building)
        elif target_format == "huggingface":
            write_huggingface(model, building, tell)
        else:
            write_run(model, building, source_format)
    heads, width = model.config.num_heads, model.config.d_model
    if target_format == "openai" and heads * HEAD_WIDTH != width:
        tell(
            f"The format openai does not record the number of heads: read {target} with --num_heads={heads}."
        )
    size = sum(array.size for array in model.weights.values())
    tell(f"written: {target}, {counted(size, 'parameter')}")


def _open_named(spec: str) -> Tokenizer:
    """Opens the tokenizer that --tokenizer names."""
    tokenizer = open_tokenizer(spec)
    if tokenizer is None:
        raise UserError(
            f"--tokenizer={spec} names no files; write openai:DIR, huggingface:DIR or sentencepiece:FILE.model."
        )
    return tokenizer


def _settle_tokens(model: LanguageModel, source: str) -> LanguageModel:
    """Returns the model with exactly one row of its token table for each of the tokenizer's pieces."""
    rows, pieces, table = model.rows, model.tokenizer.vocab_size, model.family.name_of("tokens")
    if isinstance(model.tokenizer, NoTokenizer):
        tell(
            f"{source} has no tokenizer, so the converted model reads and writes only ids; give it a tokenizer with "
            "--tokenizer=openai:DIR, huggingface:DIR or sentencepiece:FILE.model."
        )
    specials = SPECIALS if model.config.causal else 0
    if model.head is not None and rows == pieces + specials:
        # Their rows belong to the head.
        pass
    elif model.added and rows == pieces + len(model.added):
        tell(
            f"The last rows of {table} ({len(model.added)}) are left out: they are of the added tokens "
            f"{shown(', '.join(model.added))}, which are plain characters to the tokenizer here."
        )
    elif specials and rows == pieces + specials:
        tell(f"The last {SPECIALS} rows of {table} are left out: they are fine-tuning's special tokens.")
    elif rows != pieces:
        raise UserError(
            f"The tokenizer has {counted(pieces, 'piece')} and the model {counted(rows, 'row')} of {table}; name the "
            "tokenizer that it was trained with by --tokenizer."
        )
    padded = {weight.ours for weight in model.family.outer if weight.padded}
    weights = {name: array[:pieces] if name in padded else array for name, array in model.weights.items()}
    return dataclasses.replace(model, weights=weights)


def _settle_head(model: LanguageModel, target_format: str) -> LanguageModel:
    """Returns the model without its head if the new format cannot hold that."""
    if model.head is None:
        return model
    task = model.head.task
    reason = why_not(model.family, task)
    if target_format == "openai":
        reason = "the format openai holds language models"
    elif target_format == "gpt1_jax":
        reason = None
    if reason is None:
        return model
    what = "head of task {} is" if model.head.bias.size else "special tokens of task {} are"
    tell(f"The {what.format(task.name)} left out: {reason}.")
    return dataclasses.replace(model, head=None)
