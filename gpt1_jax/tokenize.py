"""Turns text into ids or back, line by line: python -m gpt1_jax.tokenize --workdir=RUN [--decode] < IN > OUT."""

import json

from absl import flags

from gpt1_jax.data.tokenizers.opening import Tokenizer, load_tokenizer, open_tokenizer
from gpt1_jax.disk.inputs import standard_lines
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run

_TOKENIZER = flags.DEFINE_string("tokenizer", None, "sentencepiece:FILE.model, huggingface:DIR or openai:DIR")
_WORKDIR = flags.DEFINE_string("workdir", None, "a run directory, whose tokenizer is used")
_DECODE = flags.DEFINE_bool("decode", False, "JSON lists of ids to lines of text, instead of text to lists")


def main(_: list[str]) -> None:
    """Reads standard input to its end; each line of text gives a JSON list of ids, or with --decode the reverse.

    Every line gives a result, so an empty line gives an empty list or an empty text.
    """
    tokenizer = _open()
    for number, line in enumerate(standard_lines(), start=1):
        print(_decode(tokenizer, line, number) if _DECODE.value else json.dumps(tokenizer.encode(line)))


def _open() -> Tokenizer:
    spec, workdir = _TOKENIZER.value, _WORKDIR.value
    if (spec is None) == (workdir is None):
        raise UserError(
            "Name either --workdir=RUN or --tokenizer=sentencepiece:FILE.model, huggingface:DIR or openai:DIR."
        )
    if workdir is not None:
        run = Run(workdir)
        # If this is not a run, the config's error says so better than a missing tokenizer's.
        run.config()
        return load_tokenizer(run.tokenizer)
    tokenizer = open_tokenizer(spec or "")
    if tokenizer is None:
        raise UserError(
            f"--tokenizer={spec} has no source to be trained on; name sentencepiece:FILE.model, huggingface:DIR or "
            "openai:DIR."
        )
    return tokenizer


def _decode(tokenizer: Tokenizer, line: str, number: int) -> str:
    try:
        ids = json.loads(line) if line.strip() else []
    except (ValueError, RecursionError):
        ids = None
    valid = isinstance(ids, list) and all(type(id) is int and 0 <= id < tokenizer.vocab_size for id in ids)
    if not valid or ids is None:
        raise UserError(
            f"Line {number} of standard input, {line[:60]!r}, is not a JSON list of ids from 0 to "
            f"{tokenizer.vocab_size - 1}; write one such as [5, 17]."
        )
    return tokenizer.decode(ids)


if __name__ == "__main__":
    door(main, fields={"data.tokenizer": "tokenizer"})
