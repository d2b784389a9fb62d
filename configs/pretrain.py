"""Pre-training, stage one of "Improving Language Understanding by Generative Pre-Training" (Radford et al., 2018).

    python -m gpt1_jax.main --config=configs/pretrain.py          the paper's setting
    python -m gpt1_jax.main --config=configs/pretrain.py:tiny     minutes on a laptop's CPU
    python -m gpt1_jax.main --config=configs/pretrain.py:small    about an hour there

GPT-2 and BERT are settings of the same model: `gpt2`, `gpt2_medium`, `gpt2_large`, `gpt2_xl`, `bert`, and for a laptop
`tiny_gpt2` and `tiny_bert`.

Any key can be set after it: --config.train.batch_size=8. A preset says what differs from the paper, whose values are
the schema's defaults (gpt1_jax/config.py); config.json of a run holds every key.
"""

from dataclasses import replace
from typing import Any

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
    end here: on a v5e:2x2 a step takes 53 ms by the compiler's estimate, and of 2 sequences 5 to 7 s on a 2-core CPU.
    """
    return Config(train=TrainConfig(num_steps=PAPER_UPDATES, num_epochs=0.0))


def tiny() -> Config:
    """Learns the demo text on a 2-core CPU within ten minutes.

    python -m gpt1_jax.main --config=configs/pretrain.py:tiny

    4.2 million parameters; 5 to 6 minutes; 1.581 bits a byte of the held-out books, perplexity 67.7 a token.
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


def gpt2() -> Config:
    """GPT-2's smallest size, "Language Models are Unsupervised Multitask Learners" (Radford et al., 2019).

    python -m gpt1_jax.main --config=configs/pretrain.py:gpt2 --config.data.tokenizer=huggingface:DIR

    124 million parameters. Without DIR, that of GPT-2's files, as many pieces of bytes are trained on the text. WebText
    was never released; PG-19 has documents that are longer than the context, as most pages of WebText are, and is the
    text of GPT-1 here, so that the models compare. The paper gives the batch, 512, and no more: the rates are those of
    "Language Models are Few-Shot Learners" for models of this size, and the 40,000 steps, 21 billion tokens, are ours.
    It was never trained here.
    """
    paper = Config()
    return replace(
        paper,
        model=replace(paper.model, norm="pre", context_length=1024),
        data=replace(paper.data, tokenizer="byte_bpe", vocab_size=50_257),
        train=replace(paper.train, num_steps=40_000, num_epochs=0.0, batch_size=512),
        optimizer=replace(paper.optimizer, learning_rate=6e-4),
    )


def gpt2_medium() -> Config:
    """GPT-2's second size, 355 million parameters.

    python -m gpt1_jax.main --config=configs/pretrain.py:gpt2_medium --config.data.tokenizer=huggingface:DIR
    """
    return _larger(num_layers=24, num_heads=16, d_model=1024, learning_rate=3e-4)


def gpt2_large() -> Config:
    """GPT-2's third size, 774 million parameters.

    python -m gpt1_jax.main --config=configs/pretrain.py:gpt2_large --config.data.tokenizer=huggingface:DIR
    """
    return _larger(num_layers=36, num_heads=20, d_model=1280, learning_rate=2.5e-4)


def gpt2_xl() -> Config:
    """GPT-2's largest size, 1,558 million parameters.

    python -m gpt1_jax.main --config=configs/pretrain.py:gpt2_xl --config.data.tokenizer=huggingface:DIR
    """
    return _larger(num_layers=48, num_heads=25, d_model=1600, learning_rate=2e-4)


def _larger(num_layers: int, num_heads: int, d_model: int, learning_rate: float) -> Config:
    """GPT-2 in another size; parameters are split over all devices, and layers are computed anew going back."""
    small = gpt2()
    sizes = {"num_layers": num_layers, "num_heads": num_heads, "d_model": d_model, "d_ff": 4 * d_model}
    return replace(
        small,
        model=replace(small.model, **sizes, remat="full"),
        optimizer=replace(small.optimizer, learning_rate=learning_rate),
        mesh=replace(small.mesh, data=1, fsdp=-1),
    )


def bert() -> Config:
    """BERT base, "BERT: Pre-training of Deep Bidirectional Transformers" (Devlin et al., 2018), without sentence pairs.

    python -m gpt1_jax.main --config=configs/pretrain.py:bert --config.data.tokenizer=huggingface:DIR

    110 million parameters; a million updates of 256 windows. Without DIR, that of BERT's vocab.txt, as many pieces are
    trained on the text, which is PG-19 in place of BooksCorpus and Wikipedia. It was never trained here.
    """
    paper = Config()
    return replace(
        paper,
        model=replace(paper.model, **BERT),
        data=replace(paper.data, tokenizer="wordpiece", vocab_size=30_522),
        train=replace(paper.train, num_steps=1_000_000, num_epochs=0.0, batch_size=256),
        optimizer=replace(
            paper.optimizer, learning_rate=1e-4, schedule="linear", warmup_steps=10_000, epsilon=1e-6
        ),
    )


# What makes a BERT of a model, in the form that transformers calls `bert`.
BERT: dict[str, Any] = {
    "causal": False,
    "token_types": 2,
    "embedding_norm": True,
    "norm_epsilon": 1e-12,
    "activation": "gelu",
}


def tiny_gpt2() -> Config:
    """`tiny` with GPT-2's norm and kind of pieces.

    python -m gpt1_jax.main --config=configs/pretrain.py:tiny_gpt2

    On a CPU, as many steps as `tiny`, 1,500; 4,000 to 4,500 tokens a second on two undisturbed cores make six to seven
    minutes; 1.625 bits a byte of the held-out books, perplexity 79.6 a token. (`tiny`: 1.581.)
    """
    gpt1 = tiny()
    return replace(gpt1, model=replace(gpt1.model, norm="pre"), data=replace(gpt1.data, tokenizer="byte_bpe"))


def tiny_bert() -> Config:
    """A small BERT, which fills masks, for a CPU.

    python -m gpt1_jax.main --config=configs/pretrain.py:tiny_bert

    0.70 million parameters. A mask says nothing by itself, so all that is learned at first is how frequent pieces are,
    until attention finds a mask's neighbors; and only 15 % of the pieces teach. So the model is smaller than `tiny`,
    its windows are shorter and its pieces fewer, and it reads eight times as much in a step, without dropout: 0.25 to
    0.31 s on two undisturbed CPU cores. After nine minutes it has perplexity 187 of the held-out text's hidden pieces,
    where frequencies alone give 391 (docs/measured.md).
    """
    gpt1 = tiny()
    return replace(
        gpt1,
        model=replace(
            gpt1.model,
            **BERT,
            num_layers=2,
            num_heads=2,
            d_model=128,
            d_ff=512,
            context_length=64,
            embedding_dropout=0.0,
            attention_dropout=0.0,
            residual_dropout=0.0,
        ),
        data=replace(gpt1.data, tokenizer="wordpiece", vocab_size=2_048),
        train=replace(gpt1.train, num_steps=1_800, eval_every=600, batch_size=128),
    )


PRESETS = {
    "": paper,
    **{
        preset.__name__: preset
        for preset in (tiny, small, gpt2, gpt2_medium, gpt2_large, gpt2_xl, bert, tiny_gpt2, tiny_bert)
    },
}


def get_config(preset: str = "") -> ConfigDict:
    """The setting of a preset; none is the paper's."""
    if preset not in PRESETS:
        raise UserError(
            f"--config=configs/pretrain.py:{preset} has no such preset; choose none, or one of "
            f"{', '.join(filter(None, PRESETS))}."
        )
    return to_config_dict(PRESETS[preset]())
