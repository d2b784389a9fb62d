"""Pre-training, stage one of "Improving Language Understanding by Generative Pre-Training" (Radford et al., 2018).

    python -m gpt1_jax.main --config=configs/pretrain.py          the paper's setting
    python -m gpt1_jax.main --config=configs/pretrain.py:tiny     minutes on a laptop's CPU
    python -m gpt1_jax.main --config=configs/pretrain.py:small    about an hour there

Any key can be set after it: --config.train.batch_size=8. A preset says what differs from the paper, whose values are
the schema's defaults (gpt1_jax/config.py); config.json of a run holds every key.
"""

from ml_collections import ConfigDict

from gpt1_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, to_config_dict
from gpt1_jax.errors import UserError

# The paper's 100 epochs of BooksCorpus: 100 · some 10⁹ tokens / (64 · 512) a batch are 3.05 million updates, as far as
# the size of that corpus is known. What is learned, and the schedule, go by updates: 100 epochs of PG-19, which is two
# and a half times as long, would be 7.8 million, so this is 38 epochs of it.
PAPER_UPDATES = 3_000_000


def paper() -> Config:
    """The paper's section 4.1.

    python -m gpt1_jax.main --config=configs/pretrain.py

    116.5 million parameters, bfloat16, 3 million updates, PG-19 in place of BooksCorpus. It was never trained to its
    end here: on a v5e:2x2 a step takes 64 ms by the compiler's estimate, and of 2 sequences 5 to 7 s on a 2-core CPU.
    """
    return Config(train=TrainConfig(num_steps=PAPER_UPDATES, num_epochs=0.0))


def tiny() -> Config:
    """Learns the demo text on a 2-core CPU within ten minutes.

    python -m gpt1_jax.main --config=configs/pretrain.py:tiny

    4.2 million parameters; 7 to 8 minutes; 1.580 bits a byte of the held-out books, perplexity 67.6 a token.
    """
    return Config(
        model=ModelConfig(
            num_layers=4, num_heads=4, d_model=256, d_ff=1024, context_length=128, dtype="float32"
        ),
        data=DataConfig(source="demo", vocab_size=4096),
        train=TrainConfig(
            num_steps=1_500,
            num_epochs=0.0,
            batch_size=8,
            log_every=50,
            eval_every=500,
            eval_batches=0,
            checkpoint_every=500,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200),
    )


def small() -> Config:
    """Learns the demo text better than a trigram model, in about an hour on a 2-core CPU.

    python -m gpt1_jax.main --config=configs/pretrain.py:small

    8.8 million parameters; 45 minutes undisturbed; 1.419 bits a byte of the held-out books, perplexity 44.0 a token.
    """
    return Config(
        model=ModelConfig(
            num_layers=6, num_heads=5, d_model=320, d_ff=1280, context_length=256, dtype="float32"
        ),
        data=DataConfig(source="demo", vocab_size=4096),
        train=TrainConfig(
            num_steps=2_400,
            num_epochs=0.0,
            batch_size=8,
            log_every=50,
            eval_every=600,
            eval_batches=0,
            checkpoint_every=300,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=300),
    )


PRESETS = {"": paper, "tiny": tiny, "small": small}


def get_config(preset: str = "") -> ConfigDict:
    """The setting of a preset; none is the paper's."""
    if preset not in PRESETS:
        raise UserError(
            f"--config=configs/pretrain.py:{preset} has no such preset; choose tiny or small, or none."
        )
    return to_config_dict(PRESETS[preset]())
