"""Converts a model between formats: python -m gpt1_jax.convert --from=FORMAT --to=FORMAT IN OUT."""

from absl import flags

from gpt1_jax.arguments import STEP_HELP, check_step
from gpt1_jax.door import door
from gpt1_jax.errors import UserError

FORMATS = ("openai", "huggingface", "gpt1_jax")
TARGETS = (*FORMATS, "stablehlo")

_FROM = flags.DEFINE_enum(
    "from", None, FORMATS, "what IN is: the authors' files, transformers', or a run directory"
)
_TO = flags.DEFINE_enum(
    "to", None, TARGETS, "what OUT becomes, stablehlo of a run only; it must not exist, or be empty"
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "openai:DIR, huggingface:DIR or sentencepiece:FILE.model, in place of the one in IN"
)
_STEP = flags.DEFINE_string("step", None, f"of --from=gpt1_jax: {STEP_HELP}")
_NUM_HEADS = flags.DEFINE_integer(
    "num_heads", None, "the number of heads, for the format openai [its width / 64]", 1, 2**20 - 1
)
_KIND = flags.DEFINE_enum(
    "kind",
    None,
    ("classification", "entailment", "similarity", "tagging", "span"),
    "of --from=huggingface: what the head of a fine-tuned BERT reads; a class of two texts is one of entailment or "
    "similarity [by the class in config.json]",
)


def main(arguments: list[str]) -> None:
    """Writes OUT, or nothing on wrong input; lines say what is left out."""
    _, source, target = arguments
    source_format, target_format = _FROM.value, _TO.value
    if source_format is None or target_format is None:
        raise UserError(
            f"--from=FORMAT and --to=FORMAT are both needed; each is one of {', '.join(FORMATS)}, and --to may be "
            "stablehlo."
        )

    step = check_step(_STEP.value, "--step")

    # jax and the rest are imported only when the flags are known to be right.
    from gpt1_jax.interop.conversion import Reading, convert

    reading = Reading(tokenizer=_TOKENIZER.value, num_heads=_NUM_HEADS.value, step=step, kind=_KIND.value)
    convert(source_format, target_format, source, target, **reading)


if __name__ == "__main__":
    door(main, positional=("IN", "OUT"), fields={"data.tokenizer": "tokenizer"})
