"""Zero-shot tasks, without fine-tuning (the paper's section 5, figure 2 right): the likeliest answer is chosen.

Each example becomes one token sequence for each possible answer, and the last tokens of a sequence are scored.
Letters: N examples, S sequences each.
"""

import re
from collections.abc import Sequence

import numpy as np

from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.encoded import EncodedExamples
from gpt1_jax.tasks.task import Example, Task

# In the order of SST-2's labels.
SENTIMENTS = (" negative", " positive")


def plain_ask(task: Task, example: Example) -> list[tuple[str, str]]:
    """Returns, for each answer, the text that is given and the text that is scored, as the papers did it.

    cola         sentence                              all of it is scored
    sst2         sentence very positive | negative     the last word
    dprd         sentence with the pronoun replaced    what follows the replacement
    choice       context question choice               the choice
    """
    if task.name == "cola":
        return [("", example.texts[0])]
    if task.name == "sst2":
        return [(f"{example.texts[0]} very", word) for word in SENTIMENTS]
    if task.name == "dprd":
        sentence, pronoun, *candidates = example.texts
        before, after = _cut_at_word(sentence, pronoun)
        return [(before + candidate, after) for candidate in candidates]
    context, question, *choices = example.texts
    given = " ".join(filter(None, (context, question)))
    return [(given, f" {choice}") for choice in choices]


def check_plain(task: Task) -> None:
    """Checks that `plain_ask` knows the task.

    Raises:
        UserError: the task has no zero-shot form.
    """
    if task.name not in ("cola", "sst2") and task.kind != "choice":
        raise UserError(
            f"--zero_shot={task.name} has no zero-shot form; write one with --prompt_template=FILE, or choose "
            "cola, sst2, dprd, lambada or a multiple-choice task."
        )


def encode_queries(
    queries: Sequence[Sequence[tuple[str, str]]], tokenizer: Tokenizer, context_length: int
) -> EncodedExamples:
    """Returns the sequences whose likelihood decides.

    A sequence that is too long loses tokens at its beginning. If the tokenizer has an end piece, each sequence begins
    with it, as documents do in pre-training.

    Args:
        queries: of each example, what is given and what is scored for each of its answers.
        tokenizer: makes tokens of them.
        context_length: of the model.

    Returns:
        The sequences; `labels`, float32 [N, S], is the number of tokens to score at the end of each.

    Raises:
        UserError: of an example, no answer has a token that can be scored after another.
    """
    texts = [text for query in queries for pair in query for text in pair]
    begin = [] if tokenizer.end_id is None else [tokenizer.end_id]
    parts = tokenizer.encode_batch(texts, threads=16)
    tokens, counts, cut = [np.zeros(0, np.int32)], [], []
    for given, scored in zip(parts[::2], parts[1::2], strict=True):
        whole = np.concatenate([begin, given, scored])
        ids = whole[-context_length:]
        tokens.append(ids.astype(np.int32))
        counts.append(min(len(scored), len(ids) - 1))
        cut.append(len(whole) - len(ids))
    labels = np.maximum(np.array(counts, np.float32).reshape(len(queries), -1), 0)
    if nothing := np.flatnonzero(labels.max(-1) == 0).tolist():
        given, scored = queries[nothing[0]][0]
        raise UserError(
            f"The answer {scored!r:.60} after {given[-60:]!r} has no token that can be scored after "
            "another; correct the example, or write a text before {answer} in --prompt_template."
        )
    longest_cut = np.array(cut, np.int64).reshape(labels.shape).max(-1)
    return EncodedExamples(np.concatenate(tokens), np.cumsum([0, *map(len, tokens[1:])]), labels, longest_cut)


def _cut_at_word(sentence: str, word: str) -> tuple[str, str]:
    """Returns what comes before and after a word's first occurrence."""
    found = re.search(rf"\b{re.escape(word)}\b", sentence, re.IGNORECASE)
    if found is None:
        raise UserError(f"The pronoun {word!r} does not occur in {sentence!r}; fix the example.")
    return sentence[: found.start()], sentence[found.end() :]


def choose_answers(task: Task, log_probabilities: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the likeliest answers, [N], by mean log-probability per scored token, or for sst2 by the sum.

    An answer without a scored token, such as an empty choice, is never the likeliest.

    Args:
        task: any task but cola, which has no answers to choose from.
        log_probabilities: [N, S], the sum over the scored tokens.
        counts: [N, S], the number of scored tokens.
    """
    scores = log_probabilities if task.name == "sst2" else log_probabilities / np.maximum(counts, 1)
    return np.where(counts > 0, scores, -np.inf).argmax(-1)


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the threshold that gives the highest Matthews correlation when scores above it count as label 1.

    Args:
        scores: [N], mean log-probabilities per token.
        labels: [N], 0 or 1.
    """
    order = np.argsort(-scores)
    # If the k highest scores count as 1: how many those are, and how many of them are right, for each k.
    said = np.arange(1, len(scores) + 1)
    right = np.cumsum(labels[order])
    positives = labels.sum()
    covariance = right * len(scores) - said * positives
    spread = np.sqrt(said * (len(scores) - said) * positives * (len(scores) - positives), dtype=np.float64)
    correlation = np.divide(covariance, spread, out=np.full(len(scores), -np.inf), where=spread > 0)
    best = int(correlation.argmax())
    return float((scores[order][best] + scores[order][min(best + 1, len(scores) - 1)]) / 2)
