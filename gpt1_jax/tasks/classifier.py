"""The model of a task: a trunk with the task's head."""

from gpt1_jax.config import FinetuneConfig, ModelConfig
from gpt1_jax.model.heads import Classifier, Head, Pooling
from gpt1_jax.model.specials import SPECIALS, special_ids
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.tasks.encoding import head_outputs
from gpt1_jax.tasks.task import Kind, Task

_POOLING: dict[Kind, Pooling] = {"similarity": "sum", "choice": "each", "tagging": "tokens", "span": "ends"}


def make_classifier(config: ModelConfig, settings: FinetuneConfig, task: Task, vocab_size: int) -> Classifier:
    """The trunk of a config with the head of a task; completion needs none.

    Args:
        config: of the trunk.
        settings: how scores are learned, and the head's dropout.
        task: whose head it is.
        vocab_size: V, the pieces of the tokenizer, without the specials.
    """
    pooling = _POOLING.get(task.kind, "one")
    if pooling == "sum" and not config.causal:
        # Both texts are compared in one sequence, whichever comes first.
        pooling = "one"
    outputs = 1 if pooling == "each" else head_outputs(task, settings.scores)
    head = None if task.kind == "completion" else Head(pooling, outputs, settings.classifier_dropout)
    trunk = make_trunk(config, vocab_size, specials=SPECIALS)
    return Classifier(trunk, head, special_ids(vocab_size).extract)
