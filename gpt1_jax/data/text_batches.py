"""Which batches a model reads text in: next tokens if it is causal, and otherwise masked ones."""

from typing import Any

from gpt1_jax.config import Config
from gpt1_jax.data.batches import EvaluationBatches, PretrainingBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.documents import Documents
from gpt1_jax.data.left_out import NOTHING, LeftOut
from gpt1_jax.data.masked import MaskedBatches, MaskedEvaluationBatches, Masking
from gpt1_jax.data.tokenizers.opening import Tokenizer

TrainingBatches = PretrainingBatches | MaskedBatches


def training_batches(
    config: Config, tokenizer: Tokenizer, split: Split, left_out: LeftOut = NOTHING
) -> TrainingBatches:
    """Returns the batches that a model is pre-trained on; documents that are left out count for nothing.

    Raises:
        UserError: the text is too short, or the tokenizer has no mask for a model that fills masks, or no end piece
            for one that keeps documents apart.
    """
    more: dict[str, Any] = {
        "seed": config.seed,
        "batch_size": config.train.batch_size,
        "context_length": config.model.context_length,
        "documents": Documents.of(config.data, tokenizer, left_out.ranges),
    }
    if config.model.causal:
        return PretrainingBatches(split, **more)
    return MaskedBatches(split, Masking.of(tokenizer, config.data.whole_words), **more)


def evaluation_batches(
    config: Config, tokenizer: Tokenizer, split: Split, batch_size: int
) -> EvaluationBatches | MaskedEvaluationBatches:
    """Returns the batches by which a model is judged on a text.

    Raises:
        UserError: as in `training_batches`.
    """
    more: dict[str, Any] = {
        "batch_size": batch_size,
        "context_length": config.model.context_length,
        "documents": Documents.of(config.data, tokenizer),
    }
    if config.model.causal:
        return EvaluationBatches(split, **more)
    return MaskedEvaluationBatches(split, Masking.of(tokenizer, config.data.whole_words), **more)
