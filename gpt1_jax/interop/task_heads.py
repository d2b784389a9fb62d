"""Heads of fine-tuned runs in the form of transformers' classes.

Letters: D width, N outputs of the head.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpt1_jax.interop.finding import UNFOLDED
from gpt1_jax.interop.fold import fold_bias
from gpt1_jax.interop.head_forms import CHOICE, RECORD, WITH_BIAS, Form, form_of
from gpt1_jax.interop.published import LanguageModel, TaskHead
from gpt1_jax.interop.tensors import SAFETENSORS
from gpt1_jax.tasks.frames import Frame, make_frame
from gpt1_jax.tasks.task import Kind

# The id after the end of shorter sequences, as in our own batches.
_PADDING = 0
# How a sequence is made of texts.
LAYOUTS: dict[Kind, str] = {
    "classification": "{start} text {end}",
    "entailment": "{start} premise {delimiter} hypothesis {end}",
    "similarity": "{start} text {delimiter} other text {end}",
    "choice": "{start} context question {delimiter} choice {end} for each choice",
    "tagging": "{start} words {end}",
    "span": "{start} question {delimiter} context {end}",
    "completion": "{start} prompt {delimiter}",
}


def add_head(
    model: LanguageModel,
    weights: dict[str, np.ndarray],
    heads: dict[str, np.ndarray],
    unfolded: dict[str, np.ndarray],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Adds the head of a model to what is written, and the specials, if it has any, to the token table.

    Args:
        model: has a head, of a task that `why_not` does not object to.
        weights: the language model's tensors by their published names; the token table may grow, and the last norm may
            be replaced.
        heads: receives the tensors whose names have no prefix.
        unfolded: receives the head and the last norm as they are, if these must carry a bias.
        tell: receives a line about how to use the model.

    Returns:
        What the config says about the head.
    """
    head, family = model.head, model.family
    assert head is not None
    form, table = form_of(family, head.task.kind), family.name_of("tokens")
    assert form is not None
    weights[table] = np.concatenate([weights[table], head.specials])
    if form.layer is not None:
        kernel = head.kernel
        if form.bias:
            heads[f"{form.layer}.bias"] = head.bias
        else:
            kernel = _fold(head, family.last_norm(model.config), weights, unfolded, tell)
        heads[f"{form.layer}.weight"] = kernel.T
    frame = make_frame(model.tokenizer, model.config.causal)
    values: dict[str, Any] = {
        "architectures": [form.architecture],
        "vocab_size": len(weights[table]),
        RECORD: {"task": head.task.to_dict(), "dropout": head.dropout_rate},
    }
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


def _fold(
    head: TaskHead,
    norm: tuple[str, str],
    weights: dict[str, np.ndarray],
    unfolded: dict[str, np.ndarray],
    tell: Callable[[str], None],
) -> np.ndarray:
    """Returns a kernel that needs no bias; `norm` names the gain and the bias of the last norm, which may change."""
    before = {name: weights[name] for name in norm}
    kernel, *after = fold_bias(head.kernel, head.bias, *before.values())
    if kernel is not head.kernel:
        unfolded |= before | dict(zip(WITH_BIAS, (head.kernel.T, head.bias), strict=True))
    weights |= zip(norm, after, strict=True)
    if any((weights[name] != array).any() for name, array in before.items()):
        tell(
            f"The last norm is replaced by one that carries the head's bias, so use {SAFETENSORS} only as a "
            f"classifier; converted back, it is the run, whose norm and head are in {UNFOLDED}."
        )
    return kernel


def _usage(form: Form, frame: Frame, head: TaskHead) -> str:
    """Returns a line on what the class reads, and where it says what."""
    start, delimiter, end = names = ("[CLS]", "[SEP]", "[SEP]") if frame.both_ways else ("<s>", "$", "<e>")
    layout = LAYOUTS[head.task.kind].format(start=start, delimiter=delimiter, end=end)
    ids = ", ".join(dict.fromkeys(f"{name} = {id}" for name, id in zip(names, frame[:3], strict=True)))
    line = f"{form.architecture} reads {layout}, where {ids}"
    if frame.both_ways and delimiter in layout.removesuffix(end):
        line += "; token types are 1 behind the first [SEP]"
    if form.layer in ("score", CHOICE):
        line += f"; pad after {end} with {_PADDING}"
    if form.layer == CHOICE:
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


def _summary(form: Form) -> dict[str, Any]:
    """Returns how a head for choices reads its state, where transformers asks."""
    if form.layer != CHOICE:
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
