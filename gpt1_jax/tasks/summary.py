"""What a run tells of its task's data before it trains."""

from collections import Counter
from collections.abc import Sequence

from gpt1_jax.data.shards import count_lost
from gpt1_jax.data.tokenizers import Tokenizer
from gpt1_jax.tasks.task import Example, Task

_NAMED = 10
_COMPARED = 1000


def describe_labels(task: Task, train: Sequence[Example], validation: Sequence[Example]) -> list[str]:
    """Sentences on the classes or scores, and on what training or validation lacks; none for choices.

    Args:
        task: the task.
        train: what is learned from.
        validation: what is judged by.
    """
    if task.kind == "choice":
        return []
    if task.score_range:
        low, high = task.score_range
        lines = [f"scores from {low} to {high}"]
    else:
        counts = Counter(example.label for example in train)
        shown = [f"{name!r:.40} ({counts[number]:,})" for number, name in enumerate(task.labels)]
        rest = f" and {len(shown) - _NAMED:,} more" if len(shown) > _NAMED else ""
        positive = f"; f1 is that of {task.labels[task.positive]!r:.40}" if "f1" in task.metrics else ""
        lines = [f"classes to learn: {', '.join(shown[:_NAMED])}{rest}{positive}"]
        if unseen := [repr(name) for number, name in enumerate(task.labels) if not counts[number]]:
            lines.append(
                f"no training example has the label {', '.join(unseen):.200}, so that it cannot be learned"
            )
    if len(judged := {example.label for example in validation}) == 1:
        (label,) = judged
        name = f"{label}" if task.score_range or label is None else f"{task.labels[int(label)]!r:.40}"
        lines.append(f"all validation examples have the label {name}, so that their score says little")
    return lines


def describe_loss(tokenizer: Tokenizer, examples: Sequence[Example]) -> list[str]:
    """A sentence where decoding does not give the first examples' texts back, such as in another script; else none."""
    if tokenizer.exact:
        return []
    texts = [text for example in examples[:_COMPARED] for text in example.texts]
    lost = sum(count_lost(text, tokenizer.decode(tokenizer.encode(text))) for text in texts)
    if not lost:
        return []
    share = lost / sum(map(len, texts))
    return [f"the tokenizer loses {share:.2%} of the texts' characters: decoding does not give them back"]
