"""The flags that benchmarks of fine-tunings have in common."""

from absl import flags

INIT_FROM = flags.DEFINE_string(
    "init_from", None, "the pre-trained run; in ablations {seed} in its path stands for the seed"
)
LSTM_FROM = flags.DEFINE_string(
    "lstm_from", None, "a run pre-trained with model.kind=lstm, for the variant lstm"
)
OUTPUT = flags.DEFINE_string("output", None, "the directory of all runs and of what is made of them")
SEEDS = flags.DEFINE_list(
    "seeds", None, "seeds of each fine-tuning; by default 0 in ablations, 0,1,2 in paper"
)
SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE of the config, for every fine-tuning")
