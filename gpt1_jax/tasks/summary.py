"""What a run says about its task's data before it trains."""

from collections import Counter
from collections.abc import Sequence

from gpt1_jax.data.shards import count_lost
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.wording import counted

_NAMED = 10
_COMPARED = 1000


def describe_labels(task: Task, train: Sequence[Example], validation: Sequence[Example]) -> list[str]:
    """Returns sentences on the classes, tags or scores, and on what training or validation lacks; none for others.

    Args:
        task: the task.
        train: the examples to train on.
        validation: the examples to score.
    """
    if task.kind == "tagging":
        return [f"{counted(len(task.labels), 'tag')} to learn: {', '.join(task.labels):.200}"]
    if task.kind == "choice" or not task.whole:
        return []
    if task.score_range:
        low, high = task.score_range
        lines = [f"scores from {low} to {high}"]
    else:
        counts = Counter(example.label for example in train)
        shown = [f"{name!r:.40} ({counts[number]:,})" for number, name in enumerate(task.labels)]
        rest = f" and {len(shown) - _NAMED:,} more" if len(shown) > _NAMED else ""
        positive = f"; f1 is that of {task.counted_class!r:.40}" if task.counted_class else ""
        lines = [f"classes to learn: {', '.join(shown[:_NAMED])}{rest}{positive}"]
        if unseen := [repr(name) for number, name in enumerate(task.labels) if not counts[number]]:
            lines.append(
                f"no training example has the label {', '.join(unseen):.200}, so it cannot be learned"
            )
    return lines + describe_judged(task, validation, "validation examples")


def describe_judged(task: Task, examples: Sequence[Example], name: str) -> list[str]:
    """Returns a sentence if all known labels of the examples to score are the same class or score.

    Args:
        task: the task.
        examples: the examples to score; unknown labels do not count.
        name: what to call these examples.
    """
    labels = {example.label for example in examples if example.label is not None}
    if task.kind == "choice" or not task.whole or len(labels) != 1:
        return []
    (label,) = labels
    assert isinstance(label, int | float)
    shown = f"{label}" if task.score_range else f"{task.labels[int(label)]!r:.40}"
    return [f"all {name} have the label {shown}, so their score says little"]


def describe_loss(tokenizer: Tokenizer, examples: Sequence[Example]) -> list[str]:
    """Returns a sentence if decoding loses characters of the first examples, say because they are in another script."""
    if tokenizer.exact:
        return []
    texts = [text for example in examples[:_COMPARED] for text in example.texts]
    lost = sum(count_lost(text, tokenizer.decode(tokenizer.encode(text))) for text in texts)
    if not lost:
        return []
    share = lost / sum(map(len, texts))
    return [f"the tokenizer loses {share:.2%} of the texts' characters: decoding does not give them back"]
