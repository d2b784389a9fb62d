"""The numbers of the paper: its tables 2 to 5, and between what and what its figure 2 puts zero-shot scores.

All are of test sets, in hundredths. QNLI is of GLUE's first edition, and today's files are of the second.
"""

from typing import NamedTuple

from gpt1_jax.tasks.task import Metric


class Cell(NamedTuple):
    """What stands in one place of a table.

    Attributes:
        name: as the paper writes it.
        task: of the catalog.
        metric: that the paper gives.
        groups: the mean over these groups of the task's examples; empty means all examples together.
    """

    name: str
    task: str
    metric: Metric
    groups: tuple[str, ...] = ()


MNLI = Cell("MNLI", "mnli", "accuracy", ("matched", "mismatched"))
MATCHED = Cell("MNLI-m", "mnli", "accuracy", ("matched",))
MISMATCHED = Cell("MNLI-mm", "mnli", "accuracy", ("mismatched",))
SNLI = Cell("SNLI", "snli", "accuracy")
SCITAIL = Cell("SciTail", "scitail", "accuracy")
QNLI = Cell("QNLI", "qnli", "accuracy")
RTE = Cell("RTE", "rte", "accuracy")
STORY_CLOZE = Cell("Story Cloze", "story_cloze", "accuracy")
RACE_MIDDLE = Cell("RACE-m", "race", "accuracy", ("middle",))
RACE_HIGH = Cell("RACE-h", "race", "accuracy", ("high",))
RACE = Cell("RACE", "race", "accuracy")
COLA = Cell("CoLA", "cola", "matthews_correlation")
SST2 = Cell("SST-2", "sst2", "accuracy")
MRPC = Cell("MRPC", "mrpc", "f1")
STSB = Cell("STS-B", "stsb", "pearson")
QQP = Cell("QQP", "qqp", "f1")
WNLI = Cell("WNLI", "wnli", "accuracy")
# GLUE's diagnostics are not in the paper.
DIAGNOSTICS = Cell("diagnostics", "ax", "matthews_correlation")

TABLES: dict[str, dict[Cell, float]] = {
    "Table 2: natural language inference": {
        MATCHED: 82.1,
        MISMATCHED: 81.4,
        SNLI: 89.9,
        SCITAIL: 88.3,
        QNLI: 88.1,
        RTE: 56.0,
    },
    "Table 3: question answering and commonsense reasoning": {
        STORY_CLOZE: 86.5,
        RACE_MIDDLE: 62.9,
        RACE_HIGH: 57.4,
        RACE: 59.0,
    },
    "Table 4: semantic similarity and classification": {
        COLA: 45.4,
        SST2: 91.3,
        MRPC: 82.3,
        STSB: 82.0,
        QQP: 70.3,
    },
}

# Table 4's "GLUE" is the benchmark's own score: the mean over nine tasks of the mean of a task's metrics.
GLUE: tuple[tuple[Cell, ...], ...] = (
    (COLA,),
    (SST2,),
    (MRPC, MRPC._replace(metric="accuracy")),
    (STSB, STSB._replace(metric="spearman")),
    (QQP, QQP._replace(metric="accuracy")),
    (MATCHED, MISMATCHED),
    (QNLI,),
    (RTE,),
    (WNLI,),
)
GLUE_SCORE = 72.8
# BERT's paper gives this model's mean without WNLI: of one metric a task, and both parts of MNLI.
WITHOUT_WNLI: tuple[tuple[Cell, ...], ...] = tuple(
    (cell,) for cell in (MATCHED, MISMATCHED, QQP, QNLI, SST2, COLA, GLUE[3][1], MRPC, RTE)
)
WITHOUT_WNLI_SCORE = 75.1

ABLATED = (COLA, SST2, MRPC, STSB, QQP, MNLI, QNLI, RTE)
# Table 5, by the names of benchmarks.variants; the last number is the mean.
ABLATIONS: dict[str, tuple[float, ...]] = {
    "full": (45.4, 91.3, 82.3, 82.0, 70.3, 81.8, 88.1, 56.0, 74.7),
    "no_pretraining": (18.9, 84.0, 79.4, 30.9, 65.5, 75.7, 71.2, 53.8, 59.9),
    "no_auxiliary": (47.9, 92.0, 84.9, 83.2, 69.8, 81.1, 86.9, 54.4, 75.0),
    "lstm": (30.3, 90.5, 83.2, 71.8, 68.1, 73.7, 81.1, 54.6, 69.1),
}

# Figure 2, left.
TRANSFERRED = (RACE, MATCHED)
TRANSFER_GAIN = "up to 9 points on MultiNLI for full transfer"


class Span(NamedTuple):
    """What counts as 0 and as 1 where scores are normalized."""

    chance: float
    best: float


# Figure 2, right. The paper names neither; these are random guesses, and the best single models of its tables: its own
# for CoLA and RACE, Sparse byte mLSTM for SST-2. The tables lack DPRD, where it is that of Peng et al. (2015).
ZERO_SHOT: dict[Cell, Span] = {
    SST2: Span(50.0, 93.2),
    Cell("DPRD", "dprd", "accuracy"): Span(50.0, 76.4),
    COLA: Span(0.0, 45.4),
    RACE: Span(25.0, 59.0),
}
