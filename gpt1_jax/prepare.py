"""Tokenizes a corpus ahead of training: python -m gpt1_jax.prepare --source=SOURCE --output=DIR."""

from absl import flags

from gpt1_jax.config import DataConfig
from gpt1_jax.data.building import tokenize
from gpt1_jax.data.progress import Progress
from gpt1_jax.data.workers import beam_workers, local_workers
from gpt1_jax.door import door
from gpt1_jax.errors import UserError

_SOURCE = flags.DEFINE_string("source", None, "demo, text:GLOB or tfds:NAME[#FEATURE]")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    "sentencepiece",
    "sentencepiece, wordpiece or byte_bpe, trained on the source; sentencepiece:FILE.model, huggingface:DIR or "
    "openai:DIR",
)
_VOCAB_SIZE = flags.DEFINE_integer(
    "vocab_size", 40_478, "the number of pieces of a tokenizer trained on the source", 1, 2**24 - 1
)
_OUTPUT = flags.DEFINE_string("output", None, "the directory to write; training gets it as data.cache_dir")
_RUNNER = flags.DEFINE_string(
    "runner", None, "a runner of Apache Beam, such as DataflowRunner; without it this machine does the work"
)
_OPTION = flags.DEFINE_multi_string(
    "option", [], "an option of Beam's, NAME=VALUE or NAME, such as project=my-project; may be repeated"
)
_SPLIT_SEED = flags.DEFINE_integer(
    "split_seed",
    0,
    "chooses what is held out of a text without a validation part; the same as data.split_seed in training",
    lower_bound=-1,
    upper_bound=2**32 - 1,
)
_TFDS_DIR = flags.DEFINE_string("tfds_dir", None, "where TFDS sets are prepared")


def main(_: list[str]) -> None:
    """Trains a tokenizer unless one is given, writes the token shards, and prints where they are."""
    source, output, runner = _SOURCE.value, _OUTPUT.value, _RUNNER.value
    if source is None or output is None:
        raise UserError(
            "--source=SOURCE and --output=DIR are both needed, such as --source=demo --output=tokens."
        )
    if _OPTION.value and runner is None:
        raise UserError(
            f"--option={_OPTION.value[0]} is for Beam, which needs --runner, such as DirectRunner."
        )
    workers = beam_workers(runner, _OPTION.value) if runner else local_workers
    data = DataConfig(
        source=source,
        tokenizer=_TOKENIZER.value or "",
        vocab_size=_VOCAB_SIZE.value or 0,
        cache_dir=output,
        tfds_dir=_TFDS_DIR.value,
        split_seed=_SPLIT_SEED.value or 0,
    )
    with Progress(None) as progress:
        directory = tokenize(data, None, progress, workers)
    print(directory)


if __name__ == "__main__":
    names = ("source", "tokenizer", "vocab_size", "tfds_dir", "split_seed")
    door(main, fields={"data.cache_dir": "output"} | {f"data.{name}": name for name in names})
