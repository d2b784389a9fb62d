"""Heads in transformers' files, as those of fine-tuned runs.

A directory that `convert` wrote records its task. Elsewhere only the heads of BERTs are taken, by their class: what
stands around a text is the same for all BERTs, but not for GPTs.

Letters: D width, N outputs of the head.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt1_jax.errors import UserError
from gpt1_jax.interop.family import Family
from gpt1_jax.interop.finding import checked
from gpt1_jax.interop.head_forms import RECORD, WITH_BIAS, form_of
from gpt1_jax.interop.json_files import read_json, shown
from gpt1_jax.interop.published import TaskHead
from gpt1_jax.interop.tensors import Tensor
from gpt1_jax.model.specials import SPECIALS
from gpt1_jax.tasks.encoding import head_outputs
from gpt1_jax.tasks.labels import check_class_name
from gpt1_jax.tasks.tagging import has_entities
from gpt1_jax.tasks.task import ROLES, Kind, Metric, Task
from gpt1_jax.wording import counted

# The kinds that a class of a BERT can be of; of several, the first is meant unless another is named.
_KINDS: Mapping[str, tuple[Kind, ...]] = {
    "BertForSequenceClassification": ("classification", "entailment", "similarity"),
    "BertForTokenClassification": ("tagging",),
    "BertForQuestionAnswering": ("span",),
}
# The keys of the rate of dropout before a head, the first that is set; and the usual rate.
_RATES = ("classifier_dropout", "hidden_dropout_prob")
_RATE = 0.1


class _Left(Exception):
    """A head cannot be converted; the message is a clause that says why."""


class _Found(NamedTuple):
    """What config.json says about a head."""

    task: Task
    dropout_rate: float


def read_head(
    directory: Path,
    family: Family,
    found: Mapping[str, Tensor],
    specials: np.ndarray,
    tell: Callable[[str], None],
    kind: str | None = None,
) -> TaskHead | None:
    """Returns the head that the files hold, or None, with a line that says why, if a run cannot have it.

    Args:
        directory: holds config.json.
        family: the family of the language model.
        found: the tensors of heads, by their names without prefixes.
        specials: float32 [M, D], the rows of the token table behind the tokenizer's pieces.
        tell: receives lines about what is left out or taken for granted.
        kind: what a class of several kinds reads, such as entailment for a classifier of two texts.

    Raises:
        UserError: the files contradict each other, or `kind` is not one of the class'.
    """
    values = read_json(directory / "config.json")
    try:
        if RECORD in values:
            described = _recorded(directory, values[RECORD])
        elif found:
            described = _described(directory, values, kind, tell)
        else:
            raise _Left("there is none")
        if kind not in (None, described.task.kind):
            raise UserError(f"--kind={kind} does not go with a head of {described.task.kind}; leave it out.")
        return _head(directory, family, described, found, specials)
    except _Left as reason:
        if kind is not None:
            raise UserError(
                f"--kind={kind} needs a head, but {directory} has none to convert; leave it out."
            ) from None
        if found:
            tell(f"The head ({', '.join(map(shown, found))}) is left out: {reason}.")
        return None


def _recorded(directory: Path, record: Any) -> _Found:
    """Returns what this package wrote about the head."""
    try:
        task, rate = Task.from_dict(record["task"]), record["dropout"]
        if task.kind not in ROLES or type(rate) not in (int, float) or not 0 <= rate < 1:
            raise ValueError("it names no kind, or no rate from 0 to below 1")
        names = isinstance(task.labels, tuple) and all(isinstance(label, str) for label in task.labels)
        numbers = (task.choices, *(task.score_range or ()))
        if not names or not all(type(number) is int for number in numbers) or len(numbers) not in (1, 3):
            raise ValueError("its labels, choices or scores are not names and whole numbers")
        return _Found(task, float(rate))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{directory / 'config.json'} has a damaged {RECORD} ({error}); restore the file, or remove that key to "
            "convert only the language model."
        ) from error


def _described(
    directory: Path, values: Mapping[str, Any], kind: str | None, tell: Callable[[str], None]
) -> _Found:
    """Returns what transformers' keys say about the head of a BERT."""
    names = values.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    kinds: tuple[Kind, ...] | None = _KINDS.get(name) if isinstance(name, str) else None
    if kinds is None:
        raise _Left(f"config.json names the class {shown(name)}, expected one of {', '.join(_KINDS)}")
    if values.get("problem_type") == "multi_label_classification":
        raise _Left("it gives an example several classes, and a run's gives one")
    # `read_head` refuses a kind that is not among them.
    chosen = kinds[kinds.index(kind) if kind in kinds else 0]
    labels = () if chosen == "span" else _labels(directory, values)
    if kind is None and len(kinds) > 1:
        other = " or ".join(f"--kind={known}" for known in kinds[1:])
        tell(f"{name} is taken for {chosen}; if it reads two texts, convert it with {other}.")
    rates = [
        float(rate) for key in _RATES if isinstance(rate := values.get(key), int | float) and 0 <= rate < 1
    ]
    task = Task("custom", chosen, _metrics(chosen, labels), labels, no_answer=chosen == "span")
    return _Found(task, [*rates, _RATE][0])


def _metrics(kind: Kind, labels: tuple[str, ...]) -> tuple[Metric, ...]:
    """Returns how a task is scored that is known only by its labels."""
    if kind == "span":
        return ("f1", "exact_match")
    if kind == "tagging":
        return ("f1", "accuracy") if has_entities(labels) else ("accuracy",)
    return ("accuracy", "f1") if len(labels) == 2 else ("accuracy",)


def _labels(directory: Path, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of classes or tags in the order of their numbers."""
    # transformers leaves its own names out.
    names = values.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    if not isinstance(names, dict) or set(names) != set(map(str, range(len(names)))):
        raise _wrong_labels(directory, names, "names by the numbers from 0 on")
    labels = tuple(str(names[str(number)]) for number in range(len(names)))
    if len(labels) < 2:
        raise _Left("its only output is a score of an unknown range")
    if len(set(labels)) < len(labels):
        raise _wrong_labels(directory, names, "names that differ")
    for label in labels:
        try:
            check_class_name(label)
        except ValueError as error:
            raise _wrong_labels(directory, names, str(error)) from error
    return labels


def _wrong_labels(directory: Path, names: object, expected: str) -> UserError:
    return UserError(
        f"{directory / 'config.json'} has id2label={shown(names)}, expected {expected}; correct it."
    )


def _head(
    directory: Path, family: Family, described: _Found, found: Mapping[str, Tensor], specials: np.ndarray
) -> TaskHead:
    """Returns the head, checked against the task."""
    task, rate = described
    form, count = form_of(family, task.kind), SPECIALS if family.ours.get("causal", True) else 0
    if form is None:
        raise _Left(f"no {family.title} in transformers' files has a head of {task.kind}")
    if len(specials) != count:
        raise _Left(
            f"the token table has {counted(len(specials), 'row')} behind the tokenizer's pieces, expected {count}"
        )
    width = specials.shape[1]
    if form.layer is None:
        return TaskHead(task, specials, np.zeros((width, 0), np.float32), np.zeros(0, np.float32), rate)
    names = (f"{form.layer}.weight", f"{form.layer}.bias")
    if not form.bias:
        names = WITH_BIAS if set(WITH_BIAS) <= found.keys() else names[:1]
    for name in names:
        if name not in found:
            raise UserError(f"{directory} has no {name}, which a {form.architecture} has; bring all weights.")
    outputs = 1 if task.kind == "choice" else head_outputs(task, "classes")
    if task.score_range and found[names[0]].shape == (1, width):
        outputs = 1
    kernel = checked(directory, names[0], found[names[0]], (outputs, width)).read().T
    bias = np.zeros(outputs, np.float32)
    if len(names) > 1:
        bias = checked(directory, names[1], found[names[1]], (outputs,)).read()
    return TaskHead(task, specials, kernel, bias, rate)
