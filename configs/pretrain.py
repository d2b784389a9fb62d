"""Pre-training, stage one of "Improving Language Understanding by Generative Pre-Training" (Radford et al., 2018).

    python -m gpt1_jax.main --config=configs/pretrain.py          the paper's setting
    python -m gpt1_jax.main --config=configs/pretrain.py:tiny     minutes on a laptop's CPU
    python -m gpt1_jax.main --config=configs/pretrain.py:small    about an hour there

Any key can be set behind it: --config.train.batch_size=8. A preset is a complete setting.
"""

from ml_collections import ConfigDict

from gpt1_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    to_config_dict,
)
from gpt1_jax.errors import UserError


def paper() -> Config:
    """The paper's section 4.1. "Code" is the authors' openai/finetune-transformer-lm."""
    return Config(
        seed=0,
        init_from=None,
        model=ModelConfig(
            kind="transformer",
            num_layers=12,
            num_heads=12,
            d_model=768,
            d_ff=3072,
            context_length=512,
            embedding_dropout=0.1,
            attention_dropout=0.1,
            residual_dropout=0.1,
            dtype="bfloat16",  # ours: the paper is silent; float32 parameters and moments in any case
            attention="auto",
            unroll=0,
            remat="none",
        ),
        data=DataConfig(
            source="tfds:pg19",  # books; BooksCorpus, which the paper used, is no longer distributed
            tokenizer="sentencepiece",
            vocab_size=40_478,  # 40,000 merges and the characters
            cache_dir="~/.cache/gpt1_jax",
            tfds_dir=None,
            split_seed=0,
        ),
        train=TrainConfig(
            num_steps=0,
            num_epochs=100.0,
            batch_size=64,
            accumulation=1,
            log_every=100,
            eval_every=10_000,
            eval_batches=200,
            checkpoint_every=5_000,
            keep_checkpoints=3,
        ),
        optimizer=OptimizerConfig(
            name="openai_adam",  # code: decoupled decay, called "modified version of L2" in the paper
            learning_rate=2.5e-4,
            schedule="cosine",  # to 0
            warmup_steps=2_000,
            warmup_fraction=0.0,
            total_steps=0,
            weight_decay=0.01,  # not on biases and gains
            clip_norm=1.0,  # code
            beta1=0.9,  # code
            beta2=0.999,  # code
            epsilon=1e-8,  # code
        ),
        mesh=MeshConfig(data=-1, fsdp=1, tensor=1),
    )


def tiny() -> Config:
    """Learns the demo text on a 2-core CPU within ten minutes."""
    return Config(
        seed=0,
        init_from=None,
        model=ModelConfig(
            kind="transformer",
            num_layers=4,
            num_heads=4,
            d_model=256,
            d_ff=1024,
            context_length=128,
            embedding_dropout=0.1,
            attention_dropout=0.1,
            residual_dropout=0.1,
            dtype="float32",
            attention="auto",
            unroll=0,
            remat="none",
        ),
        data=DataConfig(
            source="demo",
            tokenizer="sentencepiece",
            vocab_size=4096,
            cache_dir="~/.cache/gpt1_jax",
            tfds_dir=None,
            split_seed=0,
        ),
        train=TrainConfig(
            num_steps=1_500,
            num_epochs=0.0,
            batch_size=8,
            accumulation=1,
            log_every=50,
            eval_every=500,
            eval_batches=0,
            checkpoint_every=500,
            keep_checkpoints=3,
        ),
        optimizer=OptimizerConfig(
            name="openai_adam",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=200,
            warmup_fraction=0.0,
            total_steps=0,
            weight_decay=0.01,
            clip_norm=1.0,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
        ),
        mesh=MeshConfig(data=-1, fsdp=1, tensor=1),
    )


def small() -> Config:
    """Learns the demo text better than a trigram model, in about an hour on a 2-core CPU."""
    return Config(
        seed=0,
        init_from=None,
        model=ModelConfig(
            kind="transformer",
            num_layers=6,
            num_heads=5,
            d_model=320,
            d_ff=1280,
            context_length=256,
            embedding_dropout=0.1,
            attention_dropout=0.1,
            residual_dropout=0.1,
            dtype="float32",
            attention="auto",
            unroll=0,
            remat="none",
        ),
        data=DataConfig(
            source="demo",
            tokenizer="sentencepiece",
            vocab_size=4096,
            cache_dir="~/.cache/gpt1_jax",
            tfds_dir=None,
            split_seed=0,
        ),
        train=TrainConfig(
            num_steps=2_400,
            num_epochs=0.0,
            batch_size=8,
            accumulation=1,
            log_every=50,
            eval_every=600,
            eval_batches=0,
            checkpoint_every=300,
            keep_checkpoints=3,
        ),
        optimizer=OptimizerConfig(
            name="openai_adam",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=300,
            warmup_fraction=0.0,
            total_steps=0,
            weight_decay=0.01,
            clip_norm=1.0,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
        ),
        mesh=MeshConfig(data=-1, fsdp=1, tensor=1),
    )


PRESETS = {"": paper, "tiny": tiny, "small": small}


def get_config(preset: str = "") -> ConfigDict:
    """The setting of a preset; none is the paper's."""
    if preset not in PRESETS:
        raise UserError(
            f"--config=configs/pretrain.py:{preset} has no such preset; choose tiny or small, or none."
        )
    return to_config_dict(PRESETS[preset]())
