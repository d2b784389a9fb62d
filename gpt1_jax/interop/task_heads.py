"""Heads of fine-tuned runs in the form of transformers' OpenAIGPT classes.

Letters: D width, N outputs of the head.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpt1_jax.interop.fold import fold_bias
from gpt1_jax.interop.published import TOKENS, TaskHead
from gpt1_jax.model.specials import special_ids
from gpt1_jax.tasks.task import Kind, Task

# The id after the end of shorter sequences, as in our own batches.
_PADDING = 0
_CLASSES: dict[Kind, str] = {
    "classification": "OpenAIGPTForSequenceClassification",
    "entailment": "OpenAIGPTForSequenceClassification",
    "choice": "OpenAIGPTDoubleHeadsModel",
}


def why_not(task: Task) -> str | None:
    """Returns why transformers cannot hold the head of a task, or None if it can."""
    if task.kind in _CLASSES:
        return None
    return (
        f"transformers has no counterpart to a head of {task.kind}, which reads the sum of two states, one for each "
        "order of the texts"
    )


def add_head(
    weights: dict[str, np.ndarray],
    head: TaskHead,
    prefix: str,
    norm: tuple[str, str],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Adds a head to the weights and the specials to the token table.

    Args:
        weights: the tensors to write, which are changed.
        head: the head, of a task that `why_not` does not object to.
        prefix: stands before the names of the language model's tensors.
        norm: the names of the gain and the bias of the last layer norm, which may be replaced.
        tell: receives a line about how to use the model.

    Returns:
        What the config says about the head.
    """
    start, delimiter, extract = special_ids(len(weights[prefix + TOKENS]))
    weights[prefix + TOKENS] = np.concatenate([weights[prefix + TOKENS], head.specials])
    name = _CLASSES[head.task.kind]
    values: dict[str, Any] = {
        "architectures": [name],
        "vocab_size": extract + 1,
        "bos_token_id": start,
        "sep_token_id": delimiter,
        "eos_token_id": extract,
        # A classifier reads the state of the last token that is not this one.
        "pad_token_id": _PADDING,
    }
    reads = f"{name} reads <s> = {start}, $ = {delimiter}, <e> = {extract}: "
    if head.task.kind == "choice":
        tell(
            f"{reads}give it one sequence per choice, pad after <e> with {_PADDING}, and pass the places of <e> as "
            "mc_token_ids."
        )
        # This class ties the other way: its files have the output, and the token table is its copy.
        weights["lm_head.weight"] = weights.pop(prefix + TOKENS)
        weights["multiple_choice_head.summary.weight"] = head.kernel.T
        weights["multiple_choice_head.summary.bias"] = head.bias
        return values | {
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "summary_proj_to_labels": True,
            "summary_activation": None,
            "summary_first_dropout": head.dropout_rate,
        }
    tell(f"{reads}end every sequence with <e>, and pad after it with {_PADDING}.")
    weights["score.weight"] = _without_bias(weights, head, [prefix + part for part in norm]).T
    labels = head.task.labels
    return values | {
        "problem_type": "single_label_classification",
        "num_labels": len(labels),
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def _without_bias(weights: dict[str, np.ndarray], head: TaskHead, norm: list[str]) -> np.ndarray:
    """Returns a kernel [D, N] that makes up for the bias, which a classifier of transformers lacks.

    Args:
        weights: the tensors to write, whose last norm may be replaced.
        head: the head.
        norm: the full names of the norm's gain and bias.
    """
    scale, shift = norm
    kernel, weights[scale], weights[shift] = fold_bias(head.kernel, head.bias, weights[scale], weights[shift])
    return kernel
