"""The catalog: one entry for each task, both the paper's and the embedded ones.

`official_files.py` and `tfds_sets.py` say which files and TFDS sets hold each task.
"""

import difflib

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.demo_tasks import DEMO_TASKS
from gpt1_jax.tasks.task import Task

_BINARY = ("0", "1")
_TWO_WAY = ("entailment", "not_entailment")
_THREE_WAY = ("entailment", "neutral", "contradiction")
_PAIR = {"premise": "sentence1", "hypothesis": "sentence2"}
_PASSAGE = {"context": "article", "choices": "options", "label": "answer"}
_LETTERS = ("A", "B", "C", "D")

_EMERGING = ("corporation", "creative-work", "group", "location", "person", "product")
# The universal parts of speech; _ stands for a word that has none.
_PARTS_OF_SPEECH = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X", "_"),
)


def _entities(*labels: str) -> tuple[str, ...]:
    return ("O", *(f"{prefix}-{label}" for prefix in "BI" for label in labels))


CATALOG: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "cola",
            "classification",
            ("matthews_correlation", "accuracy"),
            labels=_BINARY,
            columns={"text": "sentence"},
        ),
        Task("sst2", "classification", ("accuracy",), labels=_BINARY, columns={"text": "sentence"}),
        Task(
            "mrpc",
            "similarity",
            ("f1", "accuracy"),
            labels=_BINARY,
            columns={"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"},
        ),
        Task(
            "qqp",
            "similarity",
            ("f1", "accuracy"),
            labels=_BINARY,
            columns={"sentence1": "question1", "sentence2": "question2", "label": "is_duplicate"},
        ),
        Task("stsb", "similarity", ("pearson", "spearman"), score_range=(0, 5), columns={"label": "score"}),
        Task(
            "mnli",
            "entailment",
            ("accuracy",),
            labels=_THREE_WAY,
            columns={**_PAIR, "label": "gold_label"},
            headline="matched",
        ),
        Task(
            "qnli",
            "entailment",
            ("accuracy",),
            labels=_TWO_WAY,
            columns={"premise": "question", "hypothesis": "sentence"},
        ),
        Task("rte", "entailment", ("accuracy",), labels=_TWO_WAY, columns=_PAIR),
        Task("wnli", "entailment", ("accuracy",), labels=_BINARY, columns=_PAIR),
        # GLUE's diagnostics have nothing to train on: a run that was fine-tuned on mnli predicts them.
        Task("ax", "entailment", ("matthews_correlation", "accuracy"), labels=_THREE_WAY, columns=_PAIR),
        Task(
            "snli",
            "entailment",
            ("accuracy",),
            labels=_THREE_WAY,
            columns={**_PAIR, "label": "gold_label"},
        ),
        Task("scitail", "entailment", ("accuracy",), labels=("entails", "neutral")),
        *(
            Task(name, "choice", ("accuracy",), choices=4, columns=_PASSAGE, answers=_LETTERS)
            for name in ("race", "race_middle", "race_high")
        ),
        Task(
            "story_cloze",
            "choice",
            ("accuracy",),
            choices=2,
            columns={
                "context": ("InputSentence1", "InputSentence2", "InputSentence3", "InputSentence4"),
                "choices": ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"),
                "label": "AnswerRightEnding",
            },
            answers=("1", "2"),
        ),
        # For zero-shot only. The pronoun takes the place of a question, and the candidates are the choices.
        Task(
            "dprd",
            "choice",
            ("accuracy",),
            choices=2,
            columns={"context": "sentence", "question": "pronoun", "choices": "candidates"},
        ),
        Task("conll2003", "tagging", ("f1", "accuracy"), labels=_entities("LOC", "MISC", "ORG", "PER")),
        Task("wnut17", "tagging", ("f1", "accuracy"), labels=_entities(*_EMERGING)),
        Task("ud_pos", "tagging", ("accuracy",), labels=_PARTS_OF_SPEECH),
        Task("squad", "span", ("f1", "exact_match")),
        Task("squad2", "span", ("f1", "exact_match"), no_answer=True),
        # Only a name: the config gives the kind, and the labels or choices are found in the data.
        Task("custom", "classification", ("accuracy",)),
        *DEMO_TASKS.values(),
    )
}

# There is nothing to train on: a pre-trained run answers, or one that was fine-tuned on mnli.
ZERO_SHOT_ONLY = ("dprd", "ax")


def find_task(name: str, named: str = "finetune.task=") -> Task:
    """Returns the task of a name; `custom` comes without labels, which `read_task` finds in the data.

    Args:
        name: a key of CATALOG.
        named: what an error puts before the name, so that it reads as the user wrote it.

    Raises:
        UserError: there is no such task; the error lists all and suggests one that is spelled alike.
    """
    if name in CATALOG:
        return CATALOG[name]
    if not name:
        raise UserError(f"{named} lacks the task behind it; name one of {', '.join(CATALOG)}.")
    nearest = difflib.get_close_matches(name.lower(), CATALOG, n=1, cutoff=0.6)
    hint = f"did you mean {nearest[0]}? The tasks" if nearest else "the tasks"
    raise UserError(f"{named}{name} is not a task; {hint} are {', '.join(CATALOG)}.")
