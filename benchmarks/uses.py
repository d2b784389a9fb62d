"""What the sides of benchmarks.usage do, ours and transformers', with the same weights, texts and answers."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import torch
import transformers

import gpt1_jax
from gpt1_jax.config import Config, FinetuneConfig, MeshConfig
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.demo import read_verses
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.devices.mesh import make_mesh, use
from gpt1_jax.interop.conversion import convert
from gpt1_jax.interop.run_directory import published_weights
from gpt1_jax.model.decoding.generator import Generator
from gpt1_jax.model.decoding.settings import Generation
from gpt1_jax.model.specials import Specials, special_ids
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.run import Run
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.classifier import make_classifier
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.state import initial_state
from gpt1_jax.usage.trained import TrainedRun

Answers = list[np.ndarray]

_BATCH = 32
_TASK = "mnli"
# Pieces of a verse at most, so that two fit into a context of 128.
_SHORT = 62
_NEW = 64


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all sides are given.

    Attributes:
        config: of the model and its text.
        directory: an empty one, for the run of this process.
        texts: how many pairs are predicted and texts evaluated; half as many are scored.
        prompts: how many are continued.
    """

    config: Config
    directory: Path
    texts: int
    prompts: int


@dataclasses.dataclass(frozen=True)
class Work:
    """What a side does in a round.

    Attributes:
        do: returns the answers.
        amount: how many units of work that is.
        unit: the name of the unit, in the plural.
    """

    do: Callable[[], Answers]
    amount: int
    unit: str


def _predict(setting: Setting) -> Work:
    run = _make_run(setting, _TASK)
    pairs = _pairs(run.tokenizer, setting.texts)

    def do() -> Answers:
        labeled: Any = run.predict(pairs)
        return [np.array([*found["probabilities"].values()]) for found in labeled]

    return Work(do, len(pairs), "pairs")


def _predict_peer(setting: Setting, in_order: bool) -> Work:
    run = _make_run(setting, _TASK)
    pairs, specials = _pairs(run.tokenizer, setting.texts), special_ids(run.tokenizer.vocab_size)
    peer = _open_peer(run, transformers.OpenAIGPTForSequenceClassification)

    def do() -> Answers:
        encoded = peer.encode([text for pair in pairs for text in pair])
        both = zip(encoded[::2], encoded[1::2], strict=True)
        return peer.over([_framed(*texts, specials) for texts in both], _chances, in_order)

    return Work(do, len(pairs), "pairs")


def _evaluate(setting: Setting) -> Work:
    run = _make_run(setting)
    texts = _short_verses(run.tokenizer)[: setting.texts]
    return Work(lambda: [np.array(run.evaluate(texts)["loss"])], len(texts), "texts")


def _evaluate_peer(setting: Setting) -> Work:
    run = _make_run(setting)
    texts, end = _short_verses(run.tokenizer)[: setting.texts], run.tokenizer.end_id
    peer, length = _open_peer(run, transformers.OpenAIGPTLMHeadModel), setting.config.model.context_length

    def do() -> Answers:
        stream = [end, *(id for ids in peer.encode(texts) for id in [*ids, end])]
        windows = [stream[start : start + length + 1] for start in range(0, len(stream) - 1, length)]
        return [-np.concatenate(peer.over(windows, _log_probabilities, in_order=True)).mean()]

    return Work(do, len(texts), "texts")


def _score(setting: Setting) -> Work:
    run = _make_run(setting)
    texts = _short_verses(run.tokenizer)[: setting.texts // 2]
    return Work(lambda: [np.array(found["logprobs"]) for found in run.score(texts)], len(texts), "texts")


def _score_peer(setting: Setting) -> Work:
    run = _make_run(setting)
    texts, end = _short_verses(run.tokenizer)[: setting.texts // 2], run.tokenizer.end_id
    peer = _open_peer(run, transformers.OpenAIGPTLMHeadModel)
    assert end is not None

    def do() -> Answers:
        return peer.over([[end, *ids] for ids in peer.encode(texts)], _log_probabilities, in_order=False)

    return Work(do, len(texts), "texts")


def _generate(setting: Setting) -> Work:
    model, params = _make_writer(setting.config)
    mesh, (prompts, stops) = make_mesh(MeshConfig(1, 1, 1)), _prompts(setting)
    settings = Generation(max_new_tokens=_NEW, temperature=0, stop=stops)
    write = Generator(model, mesh, params)

    def do() -> Answers:
        with use(mesh):
            return [np.array(sample.tokens) for (sample,) in write(prompts, settings)]

    return Work(do, sum(map(len, do())), "tokens")


def _generate_peer(setting: Setting) -> Work:
    model, params = _make_writer(setting.config)
    prompts, stops = _prompts(setting)
    peer = _make_gpt2(model.config, model.vocab_size)
    weights = published_weights(model.config, jax.device_get(params), model.vocab_size)
    peer.transformer.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})

    def do() -> Answers:
        width = max(map(len, prompts))
        ids, mask = torch.zeros((2, len(prompts), width), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.tensor(prompt), 1
        out = peer.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=_NEW, eos_token_id=stops, pad_token_id=0
        )
        return [_until_stop(row, stops) for row in out[:, width:].numpy()]

    return Work(do, sum(map(len, do())), "tokens")


USES: dict[str, dict[str, Callable[[Setting], Work]]] = {
    "predict": {
        "gpt1_jax": _predict,
        "transformers, sorted": functools.partial(_predict_peer, in_order=False),
        "transformers, as it is": functools.partial(_predict_peer, in_order=True),
    },
    "evaluate": {"gpt1_jax": _evaluate, "transformers": _evaluate_peer},
    "score": {"gpt1_jax": _score, "transformers, sorted": _score_peer},
    "generate": {"gpt1_jax": _generate, "transformers, padded": _generate_peer},
}


# ── Texts and models ─────────────────────────────────────────────────────────────────────────────────────────


def _pairs(tokenizer: Tokenizer, count: int) -> list[tuple[str, str]]:
    verses = _short_verses(tokenizer)[: 2 * count]
    return [*zip(verses[::2], verses[1::2], strict=False)]


def _prompts(setting: Setting) -> tuple[list[list[int]], list[int]]:
    """Returns prompts of mixed lengths, and the ids that end a continuation."""
    generator, vocab_size = np.random.default_rng(1), setting.config.data.vocab_size
    longest = setting.config.model.context_length - _NEW
    lengths = generator.integers(4, longest + 1, setting.prompts)
    prompts = [generator.integers(0, vocab_size, length).tolist() for length in lengths]
    return prompts, generator.choice(vocab_size, vocab_size // 40, replace=False).tolist()


def _make_writer(config: Config) -> tuple[Transformer, Any]:
    """Returns a GPT-2 of the sizes of a config, and its parameters."""
    model = Transformer(dataclasses.replace(config.model, norm="pre"), config.data.vocab_size)
    params = initial_state(model, optax.identity(), make_mesh(MeshConfig(1, 1, 1)), 0).params
    # At their first values, the last piece would always be the most probable one.
    generator = np.random.default_rng(0)
    return model, jax.tree.map(lambda x: x + generator.normal(0, 0.15, x.shape).astype(np.float32), params)


def _short_verses(tokenizer: Tokenizer) -> list[str]:
    verses = [*read_verses("web").values()]
    encoded = tokenizer.encode_batch(verses, threads=1)
    return [verse for verse, ids in zip(verses, encoded, strict=True) if len(ids) <= _SHORT]


def _make_run(setting: Setting, task_name: str | None = None) -> TrainedRun:
    """Returns a run of random parameters, fine-tuned on a task if one is named."""
    directory, config = setting.directory / "run", setting.config
    tokenizer = corpora.prepare(config.data).tokenizer
    run, mesh, files = Run(str(directory)), make_mesh(MeshConfig(1, 1, 1)), {}
    if task_name is None:
        model: Any = make_trunk(config.model, tokenizer.vocab_size)
    else:
        task, settings = find_task(task_name), FinetuneConfig(task_name)
        config = dataclasses.replace(config, init_from="nowhere", finetune=settings)
        model, files = (
            make_classifier(config.model, settings, task, tokenizer.vocab_size),
            {"task.json": task.to_dict()},
        )
    run.record(config, {"tokenizer": tokenizer.fingerprint()}, files=files)
    tokenizer.save(run.tokenizer)
    state = initial_state(model, optax.identity(), mesh, 0)
    checkpoints = Checkpoints(run.checkpoints, keep=1)
    checkpoints.save(0, {"step": state.step, "params": state.params})
    checkpoints.close()
    return gpt1_jax.load(directory)


class Peer:
    """A model of transformers with its tokenizer, as their users batch texts."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model.eval(), tokenizer

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of texts, without specials."""
        return self._tokenizer([*texts], add_special_tokens=False)["input_ids"]

    @torch.inference_mode()
    def over(self, sequences: Sequence[list[int]], read: Callable[..., Answers], in_order: bool) -> Answers:
        """Returns what is read from the logits of sequences, in their order; they are padded behind to their batch."""
        order = np.arange(len(sequences))
        if not in_order:
            order = np.argsort([len(ids) for ids in sequences], kind="stable")
        found: Answers = [np.zeros(0)] * len(sequences)
        for start in range(0, len(order), _BATCH):
            numbers = order[start : start + _BATCH].tolist()
            some = [torch.tensor(sequences[number]) for number in numbers]
            ids = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
            for number, answer in zip(numbers, read(self._model, ids, some), strict=True):
                found[number] = answer
        return found


def _open_peer(run: TrainedRun, kind: Any) -> Peer:
    """Returns a run as transformers opens it."""
    target = f"{run.run.directory}_converted"
    convert("gpt1_jax", "huggingface", str(run.run.directory), target)
    return Peer(kind.from_pretrained(target), transformers.AutoTokenizer.from_pretrained(target))


def _make_gpt2(config: Any, vocab_size: int) -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=vocab_size,
            n_positions=config.context_length,
            n_embd=config.d_model,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            n_inner=config.d_ff,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()


def _chances(model: Any, ids: torch.Tensor, some: Sequence[torch.Tensor]) -> Answers:
    return [*model(ids).logits.softmax(-1).numpy()]


def _log_probabilities(model: Any, ids: torch.Tensor, some: Sequence[torch.Tensor]) -> Answers:
    """Returns the log-probability of each id behind the first."""
    chances = model(ids[:, :-1]).logits.log_softmax(-1)
    found = chances.gather(-1, ids[:, 1:, None])[..., 0].numpy()
    return [row[: len(one) - 1] for row, one in zip(found, some, strict=True)]


def _framed(one: list[int], other: list[int], specials: Specials) -> list[int]:
    return [specials.start, *one, specials.delimiter, *other, specials.extract]


def _until_stop(tokens: np.ndarray, stops: Sequence[int]) -> np.ndarray:
    (places,) = np.nonzero(np.isin(tokens, stops))
    return tokens[: places[0] + 1] if len(places) else tokens
