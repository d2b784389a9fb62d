"""How answers are judged that are texts: SQuAD's exact match and F1, and ROUGE."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.task import Metric

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
ROUGE: tuple[Metric, ...] = ("rouge1", "rouge2", "rougeL")


def normalize(answer: str) -> str:
    """Returns an answer as the official script compares it: in lower case, without punctuation, articles and spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, right: Sequence[str]) -> float:
    """Returns 1 if an answer is one of the right ones once they are normalized, and otherwise 0."""
    return float(normalize(answer) in map(normalize, right))


def word_f1(answer: str, right: Sequence[str]) -> float:
    """Returns the F1 of an answer's words, counted as often as they occur, against the right answer nearest to it."""
    return max(_word_f1(normalize(answer).split(), normalize(other).split()) for other in right)


def _word_f1(answer: list[str], right: list[str]) -> float:
    if not answer or not right:
        return float(answer == right)
    common = (Counter(answer) & Counter(right)).total()
    return 2 * common / (len(answer) + len(right))


def span_scores(answers: Sequence[str], right: Sequence[Sequence[str]]) -> dict[Metric, list[float]]:
    """Returns the exact match and the F1 of each answer.

    As in the official script, right answers of which normalizing leaves nothing do not count, and a question without a
    right answer has "" for one.
    """
    pairs = [
        (answer, [*filter(normalize, accepted)] or [""])
        for answer, accepted in zip(answers, right, strict=True)
    ]
    return {
        "exact_match": [exact_match(*pair) for pair in pairs],
        "f1": [word_f1(*pair) for pair in pairs],
    }


def completion_scores(
    metrics: Sequence[Metric], completions: Sequence[str], right: Sequence[str]
) -> dict[Metric, list[float]]:
    """Returns the exact match of each completion, but for spaces around it, and the F of ROUGE if metrics name it.

    Raises:
        UserError: metrics name ROUGE, but the package is not installed.
    """
    pairs = [*zip(completions, right, strict=True)]
    scores: dict[Metric, list[float]] = {
        "exact_match": [float(one.strip() == other.strip()) for one, other in pairs]
    }
    names: list[Metric] = [metric for metric in ROUGE if metric in metrics]
    if names:
        rouge = _rouge()
        if rouge is None:
            raise UserError(
                "This run is judged by ROUGE, whose package is not installed here; install gpt1_jax[rouge]."
            )
        found = [rouge(other, one) for one, other in pairs]
        for metric in names:
            scores[metric] = [values[metric].fmeasure for values in found]
    return scores


def has_rouge() -> bool:
    """Returns whether the optional package for ROUGE is installed."""
    return _rouge() is not None


def _rouge() -> Callable[[str, str], Any] | None:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        return None
    return RougeScorer([*ROUGE], use_stemmer=True).score
