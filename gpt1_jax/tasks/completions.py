"""Completions: the task is text, a prompt and what comes after it. There is no head, only the language model."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.model.decoding.settings import Generation
from gpt1_jax.tasks.encoded import EncodedExamples, Table
from gpt1_jax.tasks.frames import Frame
from gpt1_jax.tasks.task import Example

# Of the context, what is kept free for a completion whose length is not known yet.
_KEPT_FREE = 1 / 4
Generate = Callable[[Sequence[Sequence[int]], Generation], Sequence[Sequence[Any]]]


def encode_completions(
    examples: Sequence[Example], tokenizer: Tokenizer, frame: Frame, context_length: int
) -> EncodedExamples:
    """Makes the rows `start prompt delimiter completion end`, of which the completion and the end are learned.

    If both do not fit, the prompt loses its beginning, down to half of the room, and then the completion its end.
    """
    texts = [text for example in examples for text in (example.texts[0], str(example.label or ""))]
    found = iter([ids.tolist() for ids in tokenizer.encode_batch(texts, threads=16)])
    room, table = context_length - 3, Table()
    for owner in range(len(examples)):
        whole, completion = next(found), next(found)
        kept = min(len(whole), max(room - len(completion), room - room // 2))
        prompt = whole[len(whole) - kept :]
        ids = [frame.start, *prompt, frame.delimiter, *completion[: room - kept], frame.end]
        cut = len(whole) + len(completion) - (len(ids) - 3)
        table.add(ids, [1 + kept], owner=owner, second=2 + kept, cut=cut)
    return table.encoded("text", both_ways=False)


def complete(
    examples: Sequence[Example], tokenizer: Tokenizer, frame: Frame, context_length: int, generate: Generate
) -> list[str]:
    """Returns the most probable completion of each prompt, token by token, up to the end of the context.

    Args:
        examples: the prompts.
        tokenizer: of the model.
        frame: what stands around the texts.
        context_length: the model's; a longer prompt keeps its last three quarters of that.
        generate: continues sequences, as `model.decoding.generator.Generator` does.
    """
    most = context_length - 2 - int(context_length * _KEPT_FREE)
    prompts = [
        [frame.start, *ids[max(0, len(ids) - most) :].tolist(), frame.delimiter]
        for ids in tokenizer.encode_batch([example.texts[0] for example in examples], threads=16)
    ]
    settings = Generation(max_new_tokens=context_length, temperature=0.0, stop=(frame.end,))
    # Prompts of like lengths are continued together.
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable").tolist()
    found = generate([prompts[number] for number in order], settings) if prompts else []
    completions = [""] * len(prompts)
    for number, (sample, *_) in zip(order, found, strict=True):
        # An untrained model may say the other two special tokens, which have no text.
        completions[number] = tokenizer.decode([id for id in sample.tokens if id < frame.start]).strip()
    return completions
