"""Heads of fine-tuned runs in the form of transformers' classes.

Letters: D width, N outputs of the head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpt1_jax.interop.family import Family
from gpt1_jax.interop.fold import fold_bias
from gpt1_jax.interop.published import LanguageModel
from gpt1_jax.model.specials import special_ids
from gpt1_jax.tasks.task import Task

# The id after the end of shorter sequences, as in our own batches.
_PADDING = 0


class _Form(NamedTuple):
    """A class of transformers with a head.

    Attributes:
        architecture: its name.
        layer: the name of the head's layer.
        bias: whether that has a bias.
    """

    architecture: str
    layer: str
    bias: bool = True


_CHOICE = "multiple_choice_head.summary"
# By the family and the kind of task.
_FORMS = {
    ("openai-gpt", "classification"): _Form("OpenAIGPTForSequenceClassification", "score", bias=False),
    ("openai-gpt", "entailment"): _Form("OpenAIGPTForSequenceClassification", "score", bias=False),
    ("openai-gpt", "choice"): _Form("OpenAIGPTDoubleHeadsModel", _CHOICE),
    ("gpt2", "classification"): _Form("GPT2ForSequenceClassification", "score", bias=False),
    ("gpt2", "entailment"): _Form("GPT2ForSequenceClassification", "score", bias=False),
    ("gpt2", "choice"): _Form("GPT2DoubleHeadsModel", _CHOICE),
}


def why_not(family: Family, task: Task) -> str | None:
    """Returns why transformers cannot hold the head of a task, or None if it can."""
    if (family.model_type, task.kind) in _FORMS:
        return None
    reason = f"transformers has no counterpart to a head of {task.kind}"
    if task.kind == "similarity":
        return f"{reason}, which reads the sum of two states, one for each order of the texts"
    return f"{reason} on a {family.title}"


def add_head(
    model: LanguageModel,
    weights: dict[str, np.ndarray],
    heads: dict[str, np.ndarray],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Adds the head of a model to what is written, and the specials to the token table.

    Args:
        model: has a head, of a task that `why_not` does not object to.
        weights: the language model's tensors by their published names; the token table grows, and the last norm may be
            replaced.
        heads: receives the tensors whose names have no prefix.
        tell: receives a line about how to use the model.

    Returns:
        What the config says about the head.
    """
    head, family = model.head, model.family
    assert head is not None
    start, delimiter, extract = special_ids(model.rows)
    table = family.name_of("tokens")
    weights[table] = np.concatenate([weights[table], head.specials])
    form = _FORMS[family.model_type, head.task.kind]
    values: dict[str, Any] = {
        "architectures": [form.architecture],
        "vocab_size": extract + 1,
        "bos_token_id": start,
        "sep_token_id": delimiter,
        "eos_token_id": extract,
        # A classifier reads the state of the last token that is not this one.
        "pad_token_id": _PADDING,
    }
    kernel = head.kernel
    if form.bias:
        heads[f"{form.layer}.bias"] = head.bias
    else:
        scale, shift = family.last_norm(model.config)
        kernel, weights[scale], weights[shift] = fold_bias(kernel, head.bias, weights[scale], weights[shift])
    heads[f"{form.layer}.weight"] = kernel.T
    reads = f"{form.architecture} reads <s> = {start}, $ = {delimiter}, <e> = {extract}: "
    if head.task.kind == "choice":
        tell(
            f"{reads}give it one sequence per choice, pad after <e> with {_PADDING}, and pass the places of <e> as "
            "mc_token_ids."
        )
        if form.architecture == "OpenAIGPTDoubleHeadsModel":
            # This class ties the other way: its files have the output, and the token table is the copy.
            heads["lm_head.weight"] = weights.pop(table)
        return values | {
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "summary_proj_to_labels": True,
            "summary_activation": None,
            "summary_first_dropout": head.dropout_rate,
        }
    tell(f"{reads}end every sequence with <e>, and pad after it with {_PADDING}.")
    labels = head.task.labels
    return values | {
        "problem_type": "single_label_classification",
        "num_labels": len(labels),
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
