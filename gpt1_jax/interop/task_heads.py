"""Heads of fine-tuned runs in the form of transformers' classes.

Letters: D width, N outputs of the head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpt1_jax.interop.family import Family
from gpt1_jax.interop.fold import fold_bias
from gpt1_jax.interop.published import LanguageModel, TaskHead
from gpt1_jax.tasks.frames import Frame, make_frame
from gpt1_jax.tasks.task import Kind, Task

# The id after the end of shorter sequences, as in our own batches.
_PADDING = 0


class _Form(NamedTuple):
    """A class of transformers.

    Attributes:
        architecture: its name.
        layer: the name of the head's layer; None of a class without a head.
        bias: whether that has a bias.
        dropout: the key of config.json for the dropout before the layer; None if the class has no such dropout.
    """

    architecture: str
    layer: str | None
    bias: bool = True
    dropout: str | None = None


def _classifier(architecture: str) -> _Form:
    return _Form(architecture, "classifier", dropout="classifier_dropout")


_CHOICE = "multiple_choice_head.summary"
# By the family and the kind of task.
_FORMS = {
    ("openai-gpt", "classification"): _Form("OpenAIGPTForSequenceClassification", "score", bias=False),
    ("openai-gpt", "entailment"): _Form("OpenAIGPTForSequenceClassification", "score", bias=False),
    ("openai-gpt", "choice"): _Form("OpenAIGPTDoubleHeadsModel", _CHOICE, dropout="summary_first_dropout"),
    ("openai-gpt", "completion"): _Form("OpenAIGPTLMHeadModel", None),
    ("gpt2", "classification"): _Form("GPT2ForSequenceClassification", "score", bias=False),
    ("gpt2", "entailment"): _Form("GPT2ForSequenceClassification", "score", bias=False),
    ("gpt2", "choice"): _Form("GPT2DoubleHeadsModel", _CHOICE, dropout="summary_first_dropout"),
    ("gpt2", "tagging"): _classifier("GPT2ForTokenClassification"),
    ("gpt2", "span"): _Form("GPT2ForQuestionAnswering", "qa_outputs"),
    ("gpt2", "completion"): _Form("GPT2LMHeadModel", None),
    ("bert", "classification"): _classifier("BertForSequenceClassification"),
    ("bert", "entailment"): _classifier("BertForSequenceClassification"),
    ("bert", "similarity"): _classifier("BertForSequenceClassification"),
    ("bert", "choice"): _classifier("BertForMultipleChoice"),
    ("bert", "tagging"): _classifier("BertForTokenClassification"),
    ("bert", "span"): _Form("BertForQuestionAnswering", "qa_outputs"),
}
# How a sequence is made of texts.
_LAYOUTS: dict[Kind, str] = {
    "classification": "{start} text {end}",
    "entailment": "{start} premise {delimiter} hypothesis {end}",
    "similarity": "{start} text {delimiter} other text {end}",
    "choice": "{start} context question {delimiter} choice {end} for each choice",
    "tagging": "{start} words {end}",
    "span": "{start} question {delimiter} context {end}",
    "completion": "{start} prompt {delimiter}",
}


def why_not(family: Family, task: Task) -> str | None:
    """Returns why transformers cannot hold the head of a task, or None if it can."""
    if (family.model_type, task.kind) in _FORMS:
        return None
    if task.kind == "similarity":
        return (
            "transformers has no counterpart to a head of similarity, which reads the sum of two states, one for each "
            "order of the texts"
        )
    return f"transformers has no class of a {family.title} for {task.kind}"


def add_head(
    model: LanguageModel,
    weights: dict[str, np.ndarray],
    heads: dict[str, np.ndarray],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Adds the head of a model to what is written, and the specials, if it has any, to the token table.

    Args:
        model: has a head, of a task that `why_not` does not object to.
        weights: the language model's tensors by their published names; the token table may grow, and the last norm may
            be replaced.
        heads: receives the tensors whose names have no prefix.
        tell: receives a line about how to use the model.

    Returns:
        What the config says about the head.
    """
    head, family = model.head, model.family
    assert head is not None
    form, table = _FORMS[family.model_type, head.task.kind], family.name_of("tokens")
    weights[table] = np.concatenate([weights[table], head.specials])
    if form.layer is not None:
        kernel = head.kernel
        if form.bias:
            heads[f"{form.layer}.bias"] = head.bias
        else:
            scale, shift = family.last_norm(model.config)
            kernel, weights[scale], weights[shift] = fold_bias(
                kernel, head.bias, weights[scale], weights[shift]
            )
        heads[f"{form.layer}.weight"] = kernel.T
    frame = make_frame(model.tokenizer, model.config.causal)
    values: dict[str, Any] = {"architectures": [form.architecture], "vocab_size": len(weights[table])}
    if form.architecture == "OpenAIGPTDoubleHeadsModel":
        # This class ties the other way: its files have the output, and the token table is the copy.
        heads["lm_head.weight"] = weights.pop(table)
    if frame.both_ways:
        values["pad_token_id"] = model.tokenizer.special_ids.get("pad", _PADDING)
    else:
        # A classifier reads the state of the last token that is not padding.
        values["pad_token_id"] = _PADDING
        values |= {"bos_token_id": frame.start, "sep_token_id": frame.delimiter, "eos_token_id": frame.end}
    if form.dropout is not None:
        values[form.dropout] = head.dropout_rate
    tell(_usage(form, frame, head))
    return values | _summary(form) | _outputs(head)


def _usage(form: _Form, frame: Frame, head: TaskHead) -> str:
    """Returns a line on what the class reads, and where it says what."""
    start, delimiter, end = names = ("[CLS]", "[SEP]", "[SEP]") if frame.both_ways else ("<s>", "$", "<e>")
    layout = _LAYOUTS[head.task.kind].format(start=start, delimiter=delimiter, end=end)
    ids = ", ".join(dict.fromkeys(f"{name} = {id}" for name, id in zip(names, frame[:3], strict=True)))
    line = f"{form.architecture} reads {layout}, where {ids}"
    if frame.both_ways and delimiter in layout.removesuffix(end):
        line += "; token types are 1 behind the first [SEP]"
    if form.layer in ("score", _CHOICE):
        line += f"; pad after {end} with {_PADDING}"
    if form.layer == _CHOICE:
        line += f", and pass the places of {end} as mc_token_ids"
    if head.task.kind == "tagging":
        line += f"; the tag of a word is at its {'first' if frame.both_ways else 'last'} piece"
    if head.task.kind == "span":
        line += f"; where there is no answer, both ends are {start if frame.both_ways else end}"
    if head.task.kind == "completion":
        line += f"; it writes the completion and {end}"
    if head.task.score_range and len(head.bias) > 1:
        line += "; a score is the mean of the labels by their probabilities"
    return f"{line}."


def _summary(form: _Form) -> dict[str, Any]:
    """Returns how a head for choices reads its state, where transformers asks."""
    if form.layer != _CHOICE:
        return {}
    return {
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "summary_proj_to_labels": True,
        "summary_activation": None,
    }


def _outputs(head: TaskHead) -> dict[str, Any]:
    """Returns what the outputs of a head stand for: classes, tags or scores, of which transformers keeps names."""
    labels = head.task.labels
    if head.task.score_range:
        if len(head.bias) == 1:
            return {"problem_type": "regression", "num_labels": 1}
        low, high = head.task.score_range
        labels = tuple(map(str, range(low, high + 1)))
    if not labels:
        return {}
    kind = {} if head.task.kind == "tagging" else {"problem_type": "single_label_classification"}
    return kind | {
        "num_labels": len(labels),
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
