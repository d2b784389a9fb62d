"""Continuations of prompts: the prompts' ids, the texts of samples, and what `generate` returns."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

from gpt1_jax.arguments import check_function, check_ids, check_integer, check_several, check_text, shown
from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.gpt1 import OpenAITokenizer
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.model.decoding.generator import Generator
from gpt1_jax.model.decoding.samples import Reason, Sample
from gpt1_jax.model.decoding.settings import Generation
from gpt1_jax.usage.notices import check_finite

if TYPE_CHECKING:
    from gpt1_jax.usage.trained import TrainedRun

# It stands for the first bytes of an unfinished character.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_LAST_WORD = re.compile(r"\s*\S*\Z")


class SampledText(TypedDict):
    """A continuation of a prompt.

    Attributes:
        token_ids: the new ids, including a stop that ended them.
        text: their text without such a stop; "" if the run has no tokenizer.
        logprobs: the log-probability of each id under the model itself, before temperature and truncation.
        finish_reason: why the continuation ends.
        score: the score of beam search.
    """

    token_ids: list[int]
    text: str
    logprobs: list[float]
    finish_reason: Reason
    score: NotRequired[float]


class Continued(TypedDict):
    """A prompt and its continuations."""

    prompt: str
    prompt_token_ids: list[int]
    samples: list[SampledText]


class Prompt(NamedTuple):
    """A text to continue, and its ids."""

    text: str
    ids: list[int]


def generate(
    trained: "TrainedRun", prompt: object, settings: Generation, watch: object, number: object
) -> Continued | list[Continued]:
    """Continues a text or several texts, see `TrainedRun.generate`."""
    tokenizer = trained.tokenizer
    settings = settings.checked(tokenizer.vocab_size)
    watching, first = check_function(watch, "watch"), check_integer(number, "number")
    if not 0 <= first < 2**31:
        raise UserError(f"number={shown(first)} is out of range; give 0 to 2**31 - 1.")
    prompts, several = read_prompts(tokenizer, prompt)

    def show(rows: list[list[int]]) -> None:
        assert watching is not None
        begun = [prompts[i // settings.num_samples] for i in range(len(rows))]
        pairs = zip(begun, rows, strict=True)
        watching([growing_text(tokenizer, prompt, row, settings.stop) for prompt, row in pairs])

    with trained.on_mesh():
        generator = trained.compiled(_make_generator)
        ids = [prompt.ids for prompt in prompts]
        found = generator(ids, settings, None if watching is None else show, first=first)
    for samples in found:
        check_finite([chance for sample in samples for chance in sample.log_probabilities])
    results = [
        describe(tokenizer, prompt, samples, settings.stop)
        for prompt, samples in zip(prompts, found, strict=True)
    ]
    return results if several else results[0]


def _make_generator(trained: "TrainedRun") -> Generator:
    documents = trained.documents
    return Generator(trained.trunk, trained.mesh, trained.trunk_params, documents.anew, documents.restart)


def read_prompts(tokenizer: Tokenizer, given: object) -> tuple[list[Prompt], bool]:
    """Reads the prompts that `generate` was given, and says whether they are a list of texts.

    Raises:
        UserError: they are neither a text, nor ids, nor a list of texts.
    """
    if isinstance(given, str):
        return [_read_text(tokenizer, given, "prompt")], False
    members = check_several(given, "prompt", "a text, a list of texts or a list of ids")
    if all(isinstance(member, str) for member in members):
        return [
            _read_text(tokenizer, text, f"prompt {number}") for number, text in enumerate(members, start=1)
        ], True
    ids = check_ids(members, "prompt", tokenizer.vocab_size)
    return [Prompt("" if isinstance(tokenizer, NoTokenizer) else tokenizer.decode(ids), ids)], False


def describe(
    tokenizer: Tokenizer, prompt: Prompt, samples: Iterable[Sample], stop: Sequence[int]
) -> Continued:
    """Returns a prompt's samples in the form that `generate` returns."""
    described: list[SampledText] = []
    for sample in samples:
        described.append(
            {
                "token_ids": sample.tokens,
                "text": sample_text(tokenizer, prompt, sample.tokens, stop),
                "logprobs": sample.log_probabilities,
                "finish_reason": sample.reason,
            }
        )
        if sample.score is not None:
            described[-1]["score"] = sample.score
    return {"prompt": prompt.text, "prompt_token_ids": prompt.ids, "samples": described}


def sample_text(tokenizer: Tokenizer, prompt: Prompt, tokens: Sequence[int], stop: Sequence[int]) -> str:
    """Returns the text of new tokens after a prompt, with the space between the two, without a stop that ended them."""
    if isinstance(tokenizer, NoTokenizer):
        return ""
    spoken = [*tokens[:-1]] if tokens and tokens[-1] in stop else [*tokens]
    before, whole = tokenizer.decode(prompt.ids), tokenizer.decode([*prompt.ids, *spoken])
    # A prompt of ids may end inside a character, which the new tokens finish.
    for begun in (before, before.rstrip(_UNFINISHED)):
        if whole.startswith(begun):
            return whole.removeprefix(begun)
    return tokenizer.decode(spoken)


def growing_text(tokenizer: Tokenizer, prompt: Prompt, tokens: Sequence[int], stop: Sequence[int]) -> str:
    """Returns the beginning of `sample_text` that further tokens cannot change."""
    text = sample_text(tokenizer, prompt, tokens, stop)
    # This tokenizer spaces a word by what follows it, as in "he 's" and "he's".
    if isinstance(tokenizer, OpenAITokenizer):
        return _LAST_WORD.sub("", text)
    return text.rstrip(_UNFINISHED)


def _read_text(tokenizer: Tokenizer, text: str, name: str) -> Prompt:
    """Returns a prompt's ids; an empty prompt becomes the piece that ends a document, as at a document's beginning."""
    ids = tokenizer.encode(check_text(text, name))
    end = tokenizer.end_id
    return Prompt(text, [end] if not ids and end is not None else ids)
