"""What a finished model is asked for, beside transformers: python -m benchmarks.usage [--preset=tiny].

It needs torch and transformers. Both sides have the same random weights in float32, the same pieces and texts of the
demo, and give the same numbers, which is checked first. Texts go in and answers come out, so tokenizing is part of it.
transformers reads batches of 32, sorted by length, and for `predict` also as they come. Prompts of generation are ids:
of mixed lengths, padded on the left, with a GPT-2, since transformers' GPT-1 has no cache; samples end at different
lengths by stops. Rounds are interleaved, after one that warms up.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import torch
import transformers
from absl import flags

import gpt1_jax
from benchmarks.peers import check_devices
from benchmarks.settings import find_preset
from benchmarks.timing import conclude, measure
from gpt1_jax.config import Config, FinetuneConfig, MeshConfig
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.demo import read_verses
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.devices.mesh import make_mesh, use
from gpt1_jax.door import door
from gpt1_jax.errors import Fault
from gpt1_jax.huge_pages import use_huge_pages
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

_PRESET = flags.DEFINE_string(
    "preset", "tiny", "a preset of configs/pretrain.py with a GPT-1; '' is the paper's"
)
_USES = flags.DEFINE_list("uses", ["predict", "evaluate", "score", "generate"], "what is compared")
_TEXTS = flags.DEFINE_integer("texts", 3000, "pairs for predict; half as many texts for score", 64)
_PROMPTS = flags.DEFINE_integer("prompts", 64, "prompts to continue", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds of timing", 1)
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 0, "pieces trained; by default the preset's", 0)
_CACHE_DIR = flags.DEFINE_string("cache_dir", "~/.cache/gpt1_jax", "the directory of the tokenized demo text")

Answers = list[np.ndarray]

_BATCH = 32
_TASK = "mnli"
# Pieces of a verse at most, so that two fit into a context of 128.
_SHORT = 62
_NEW = 64
_TOLERANCE = 1e-4


def main(_: list[str]) -> None:
    """Prints lines for each use, then the same in JSON."""
    check_devices()
    whole = find_preset(_PRESET.value)
    model = dataclasses.replace(whole.model, dtype="float32")
    pieces = _VOCAB_SIZE.value or whole.data.vocab_size
    data = dataclasses.replace(whole.data, source="demo", vocab_size=pieces, cache_dir=_CACHE_DIR.value or "")
    config = dataclasses.replace(whole, model=model, data=data)
    facts: list[dict[str, Any]] = []
    if "generate" in _USES.value:
        facts += _generate(config)
    with tempfile.TemporaryDirectory() as directory:
        tokenizer = corpora.prepare(data).tokenizer
        verses = _short_verses(tokenizer)[: 2 * _TEXTS.value]
        if "predict" in _USES.value:
            labeler = _make_run(Path(directory, "labeler"), config, tokenizer, _TASK)
            facts += _predict(labeler, [*zip(verses[::2], verses[1::2], strict=False)])
        if {"evaluate", "score"} & {*_USES.value}:
            writer = _make_run(Path(directory, "writer"), config, tokenizer, None)
            peer = _open_peer(writer, transformers.OpenAIGPTLMHeadModel)
            if "evaluate" in _USES.value:
                facts += _evaluate(writer, peer, verses[: _TEXTS.value])
            if "score" in _USES.value:
                facts += _score(writer, peer, verses[: _TEXTS.value // 2])
    conclude(preset=_PRESET.value, texts=_TEXTS.value, prompts=_PROMPTS.value, rows=facts)


# ── Uses ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _predict(run: TrainedRun, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    peer = _open_peer(run, transformers.OpenAIGPTForSequenceClassification)
    specials = special_ids(run.tokenizer.vocab_size)

    def ours() -> Answers:
        labeled: Any = run.predict(pairs)
        return [np.array([*found["probabilities"].values()]) for found in labeled]

    def theirs(in_order: bool) -> Answers:
        encoded = peer.encode([text for pair in pairs for text in pair])
        both = zip(encoded[::2], encoded[1::2], strict=True)
        return peer.over([_framed(*texts, specials) for texts in both], _chances, in_order)

    sides = {
        "gpt1_jax": ours,
        "transformers, sorted": lambda: theirs(False),
        "transformers, as it is": lambda: theirs(True),
    }
    return _compare("predict", sides, len(pairs), "pairs")


def _evaluate(run: TrainedRun, peer: "Peer", texts: list[str]) -> list[dict[str, Any]]:
    length, end = run.config.model.context_length, run.tokenizer.end_id
    assert end is not None

    def ours() -> Answers:
        return [np.array(run.evaluate(texts)["loss"])]

    def theirs() -> Answers:
        stream = [end, *(id for ids in peer.encode(texts) for id in [*ids, end])]
        windows = [stream[start : start + length + 1] for start in range(0, len(stream) - 1, length)]
        found = peer.over(windows, _log_probabilities, in_order=True)
        return [-np.concatenate(found).mean()]

    return _compare("evaluate", {"gpt1_jax": ours, "transformers": theirs}, len(texts), "texts")


def _score(run: TrainedRun, peer: "Peer", texts: list[str]) -> list[dict[str, Any]]:
    end = run.tokenizer.end_id
    assert end is not None

    def ours() -> Answers:
        return [np.array(found["logprobs"]) for found in run.score(texts)]

    def theirs() -> Answers:
        return peer.over([[end, *ids] for ids in peer.encode(texts)], _log_probabilities, in_order=False)

    return _compare("score", {"gpt1_jax": ours, "transformers, sorted": theirs}, len(texts), "texts")


def _generate(config: Config) -> list[dict[str, Any]]:
    gpt2, vocab_size = dataclasses.replace(config.model, norm="pre"), config.data.vocab_size
    model, mesh = Transformer(gpt2, vocab_size), make_mesh(MeshConfig(1, 1, 1))
    params = initial_state(model, optax.identity(), mesh, 0).params
    # At their first values, the last piece would always be the most probable one.
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + generator.normal(0, 0.15, x.shape).astype(np.float32), params)
    peer = _make_gpt2(gpt2, vocab_size)
    weights = published_weights(gpt2, jax.device_get(params), vocab_size)
    peer.transformer.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    longest = gpt2.context_length - _NEW
    lengths = generator.integers(4, longest + 1, _PROMPTS.value)
    prompts = [generator.integers(0, vocab_size, length).tolist() for length in lengths]
    stops = generator.choice(vocab_size, vocab_size // 40, replace=False).tolist()
    settings = Generation(max_new_tokens=_NEW, temperature=0, stop=stops)
    write = Generator(model, mesh, params)

    def ours() -> Answers:
        with use(mesh):
            return [np.array(sample.tokens) for (sample,) in write(prompts, settings)]

    def theirs() -> Answers:
        width = max(map(len, prompts))
        ids, mask = torch.zeros((2, len(prompts), width), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.tensor(prompt), 1
        out = peer.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=_NEW, eos_token_id=stops, pad_token_id=0
        )
        return [_until_stop(row, stops) for row in out[:, width:].numpy()]

    written = ours()
    counts = [len(tokens) for tokens in written]
    print(
        f"generate: {min(counts)} to {max(counts)} new tokens, {np.mean(counts):.1f} on average", flush=True
    )
    return _compare("generate", {"gpt1_jax": ours, "transformers, padded": theirs}, sum(counts), "tokens")


def _compare(
    use_name: str, sides: dict[str, Callable[[], Answers]], work: int, unit: str
) -> list[dict[str, Any]]:
    """Checks that all sides give the same, which warms up, too; prints a line for each, and returns the same.

    Raises:
        Fault: they differ.
    """
    expected, *others = (side() for side in sides.values())
    for name, found in zip([*sides][1:], others, strict=True):
        for one, other in zip(found, expected, strict=True):
            if not np.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE):
                raise Fault(
                    f"{use_name}: {name} gives {one}, and gpt1_jax {other}; the sides are not the same."
                )
    rows = measure(sides, _ROUNDS.value, work, unit)
    for row in rows:
        print(f"{use_name:9} {row}", flush=True)
    return [{"use": use_name, **dataclasses.asdict(row)} for row in rows]


# ── Sides ────────────────────────────────────────────────────────────────────────────────────────────────────


def _short_verses(tokenizer: Tokenizer) -> list[str]:
    verses = [*read_verses("web").values()]
    encoded = tokenizer.encode_batch(verses, threads=1)
    return [verse for verse, ids in zip(verses, encoded, strict=True) if len(ids) <= _SHORT]


def _make_run(directory: Path, config: Config, tokenizer: Tokenizer, task_name: str | None) -> TrainedRun:
    """Returns a run of random parameters, fine-tuned on a task if one is named."""
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


if __name__ == "__main__":
    use_huge_pages()
    door(main)
