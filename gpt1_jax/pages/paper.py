"""The paper's own scores, to stand beside a run's: tables 2 to 4, on the tests' hidden labels where a task has some."""

# task → (metric of ours, the paper's score of its model).
SCORES: dict[str, tuple[str, float]] = {
    "mnli": ("accuracy", 0.821),
    "snli": ("accuracy", 0.899),
    "scitail": ("accuracy", 0.883),
    "qnli": ("accuracy", 0.881),
    "rte": ("accuracy", 0.560),
    "story_cloze": ("accuracy", 0.865),
    "race_middle": ("accuracy", 0.629),
    "race_high": ("accuracy", 0.574),
    "race": ("accuracy", 0.590),
    "cola": ("matthews_correlation", 0.454),
    "sst2": ("accuracy", 0.913),
    "mrpc": ("f1", 0.823),
    "stsb": ("pearson", 0.820),
    "qqp": ("f1", 0.703),
}
