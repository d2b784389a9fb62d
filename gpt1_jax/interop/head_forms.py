"""The classes of transformers that hold a language model with a task's head on it."""

from typing import NamedTuple

from gpt1_jax.interop.family import Family
from gpt1_jax.tasks.task import Kind, Task

# The key of config.json under which a converted run tells its task, and the rate of dropout before the head.
RECORD = "gpt1_jax"
# A head with a bias, in the file beside the weights of a class whose heads have none.
WITH_BIAS = ("head.weight", "head.bias")


class Form(NamedTuple):
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


def _classifier(architecture: str) -> Form:
    return Form(architecture, "classifier", dropout="classifier_dropout")


CHOICE = "multiple_choice_head.summary"
# By the family and the kind of task.
FORMS: dict[tuple[str, Kind], Form] = {
    ("openai-gpt", "classification"): Form("OpenAIGPTForSequenceClassification", "score", bias=False),
    ("openai-gpt", "entailment"): Form("OpenAIGPTForSequenceClassification", "score", bias=False),
    ("openai-gpt", "choice"): Form("OpenAIGPTDoubleHeadsModel", CHOICE, dropout="summary_first_dropout"),
    ("openai-gpt", "completion"): Form("OpenAIGPTLMHeadModel", None),
    ("gpt2", "classification"): Form("GPT2ForSequenceClassification", "score", bias=False),
    ("gpt2", "entailment"): Form("GPT2ForSequenceClassification", "score", bias=False),
    ("gpt2", "choice"): Form("GPT2DoubleHeadsModel", CHOICE, dropout="summary_first_dropout"),
    ("gpt2", "tagging"): _classifier("GPT2ForTokenClassification"),
    ("gpt2", "span"): Form("GPT2ForQuestionAnswering", "qa_outputs"),
    ("gpt2", "completion"): Form("GPT2LMHeadModel", None),
    ("bert", "classification"): _classifier("BertForSequenceClassification"),
    ("bert", "entailment"): _classifier("BertForSequenceClassification"),
    ("bert", "similarity"): _classifier("BertForSequenceClassification"),
    ("bert", "choice"): _classifier("BertForMultipleChoice"),
    ("bert", "tagging"): _classifier("BertForTokenClassification"),
    ("bert", "span"): Form("BertForQuestionAnswering", "qa_outputs"),
}


def form_of(family: Family, kind: Kind) -> Form | None:
    """Returns the class for a kind of task, or None if transformers has none."""
    return FORMS.get((family.model_type, kind))


def why_not(family: Family, task: Task) -> str | None:
    """Returns why transformers cannot hold the head of a task, or None if it can."""
    if form_of(family, task.kind) is not None:
        return None
    if task.kind == "similarity":
        return (
            "transformers has no counterpart to a head of similarity, which reads the sum of two states, one for each "
            "order of the texts"
        )
    return f"transformers has no class of a {family.title} for {task.kind}"
