"""A run directory opened to be used: what `gpt1_jax.load` returns, and what the commands share.

Letters: T positions, V the tokenizer's pieces, N examples, C outputs of the head.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property, lru_cache
from typing import Any, NotRequired, TypedDict, cast, overload

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from flax import linen as nn
from jax.sharding import Mesh

from gpt1_jax.config import Config, MeshConfig
from gpt1_jax.data.no_tokenizer import NoTokenizer
from gpt1_jax.data.tokenizers import load_tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.run import Run
from gpt1_jax.tasks.encoding import encode_examples
from gpt1_jax.tasks.examples import parse_example
from gpt1_jax.tasks.predictions import predict_labels, probabilities
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.training import sharding
from gpt1_jax.training.checkpoints import Checkpoints, Damaged
from gpt1_jax.training.evaluation import make_predict
from gpt1_jax.training.finetuning import make_classifier
from gpt1_jax.training.generation import Generation, Generator, Reason, Sample
from gpt1_jax.training.session import fit_attention, keep_compiled
from gpt1_jax.training.step import abstract_state

EXAMPLES_AT_ONCE = 32


class SampledText(TypedDict):
    """A continuation.

    Fields:
        token_ids: the new ones, a stop that ended them included.
        text: theirs, without such a stop; empty where the run has no tokenizer.
        logprobs: of each, by the model itself, before temperature and the like.
        finish_reason: why it ends.
        score: of beam search.
    """

    token_ids: list[int]
    text: str
    logprobs: list[float]
    finish_reason: Reason
    score: NotRequired[float]


class Continued(TypedDict):
    """A prompt and what follows it."""

    prompt: str
    prompt_token_ids: list[int]
    samples: list[SampledText]


class TrainedRun:
    """A trained model with its tokenizer, on the mesh of its config where the devices at hand allow it.

    Otherwise each device has a copy of the parameters.
    """

    def __init__(self, directory: str, step: int | None = None) -> None:
        """Opens the checkpoint of `step`, or the newest sound one.

        Raises:
            UserError: there is no run, no such checkpoint, or none that is sound.
        """
        self.run = Run(directory)
        self.config = self.run.config()
        keep_compiled(self.config.data.cache_dir)
        self.tokenizer = load_tokenizer(self.run.tokenizer)
        self.mesh = _mesh_at_hand(self.config)
        self.task = Task.from_dict(_read_json(self.run, "task.json")) if self.config.finetune else None
        fitted = _fit_attention(self.config, self.mesh)
        if self.task is None:
            self.classifier = None
            self.trunk = make_trunk(fitted.model, self.tokenizer.vocab_size)
        else:
            self.classifier = make_classifier(fitted, self.task, self.tokenizer.vocab_size)
            self.trunk = self.classifier.trunk
        with self.on_mesh():
            abstract = abstract_state(self.classifier or self.trunk, optax.identity(), self.mesh)
        restored = self._restore({"step": abstract.step, "params": abstract.params}, step)
        self.step, self.params = int(restored["step"]), restored["params"]

    @property
    def trunk_params(self) -> Any:
        """The parameters of the language model."""
        return self.params if self.classifier is None else self.params["trunk"]

    def on_mesh(self) -> AbstractContextManager[Any]:
        """The context in which the model's functions are called."""
        stack = ExitStack()
        stack.enter_context(jax.set_mesh(self.mesh))
        stack.enter_context(nn.logical_axis_rules(sharding.RULES))
        return stack

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return self.tokenizer.decode(ids)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """The logits of what follows each of the ids, float32 [T, V].

        Raises:
            UserError: more ids than the context holds, none, or one that is no piece.
        """
        length, vocab_size = self.config.model.context_length, self.tokenizer.vocab_size
        if not 0 < len(ids) <= length:
            raise UserError(
                f"There are {len(ids)} ids, expected 1 to {length}, the model's context; cut them."
            )
        if not all(0 <= id < vocab_size for id in ids):
            raise UserError(
                f"An id is not one of the tokenizer's pieces, 0 to {vocab_size - 1}; encode a text."
            )
        rows = np.zeros((self.mesh.shape["data"] * self.mesh.shape["fsdp"], len(ids)), np.int32) + np.array(
            ids, np.int32
        )
        with self.on_mesh():
            return np.array(self._logits(self.trunk_params, rows))

    @overload
    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        watch: Callable[[list[str]], None] | None = None,
        **settings: Any,
    ) -> Continued: ...

    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...],
        *,
        watch: Callable[[list[str]], None] | None = None,
        **settings: Any,
    ) -> list[Continued]: ...

    def generate(
        self,
        prompt: str | Sequence[int] | list[str] | tuple[str, ...],
        *,
        watch: Callable[[list[str]], None] | None = None,
        **settings: Any,
    ) -> Continued | list[Continued]:
        """Continues a text, or each of several.

        Args:
            prompt: a text or its token ids, or a list of texts that are continued side by side.
            watch: is shown the texts of all samples so far, as they grow.
            **settings: fields of `generation.Generation`, such as max_new_tokens=64, temperature=0.7, top_p=0.9.

        Returns:
            A dictionary as `Continued` describes it, or for a list of texts a list of such.

        Raises:
            UserError: a setting that does not exist or is out of range, or a prompt that does not fit.
        """
        try:
            chosen = Generation(**settings)
        except TypeError as error:
            known = ", ".join(Generation.__dataclass_fields__)
            raise UserError(f"A setting of generation is not known ({error}); there are {known}.") from error
        several = not isinstance(prompt, str) and all(isinstance(text, str) for text in prompt)
        given = cast(list[Any], list(prompt) if several else [prompt])
        prompts = [self._prompt_ids(text) if isinstance(text, str) else list(text) for text in given]

        def show(rows: list[list[int]]) -> None:
            assert watch is not None
            begun = [prompts[i // chosen.num_samples] for i in range(len(rows))]
            watch([self._continuation(ids, row) for ids, row in zip(begun, rows, strict=True)])

        with self.on_mesh():
            found = self._generator(prompts, chosen, None if watch is None else show)
        results: list[Continued] = [
            {
                "prompt": text if isinstance(text, str) else self._continuation([], ids),
                "prompt_token_ids": ids,
                "samples": [self._describe_sample(ids, sample) for sample in samples],
            }
            for text, ids, samples in zip(given, prompts, found, strict=True)
        ]
        return results if several else results[0]

    def _prompt_ids(self, text: str) -> list[int]:
        """A prompt's ids; where it is empty, the piece that ends a document, as a document's beginning."""
        ids = self.encode(text)
        end = self.tokenizer.end_id
        return [end] if not ids and end is not None else ids

    def _describe_sample(self, prompt: list[int], sample: Sample) -> SampledText:
        spoken = sample.tokens[:-1] if sample.reason == "stop" else sample.tokens
        described: SampledText = {
            "token_ids": sample.tokens,
            "text": self._continuation(prompt, spoken),
            "logprobs": sample.log_probabilities,
            "finish_reason": sample.reason,
        }
        if sample.score is not None:
            described["score"] = sample.score
        return described

    def _continuation(self, prompt: list[int], ids: list[int]) -> str:
        """The text of new ids, with the space that may stand between it and the prompt."""
        if isinstance(self.tokenizer, NoTokenizer):
            return ""
        before, whole = self.decode(prompt), self.decode([*prompt, *ids])
        return whole.removeprefix(before) if whole.startswith(before) else self.decode(ids)

    def predict(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Labels new examples with a fine-tuned run.

        Args:
            records: each an example's texts by the names of its task's kind (`tasks.task.ROLES`), or by the data
                set's own.

        Returns:
            For each {"label": a class's name, "probabilities": {name: p}}; of multiple choice the choice's number from
            0 and the choices' probabilities as a list; of a scored task the score, and the probabilities of the whole
            scores where it was learned by classes.

        Raises:
            UserError: the run was not fine-tuned, or a record is no example of its task: told by its number from 1.
        """
        if self.task is None:
            raise UserError(f"{self.run.directory} was not fine-tuned on a task; name a run that was.")
        examples = []
        for number, record in enumerate(records, start=1):
            try:
                examples.append(parse_example(self.task, record))
            except ValueError as error:
                raise UserError(f"Line {number} is no example of task {self.task.name}: {error}.") from error
        return [self._describe(logits) for logits in self.predict_logits(examples)]

    def predict_logits(self, examples: Sequence[Example]) -> np.ndarray:
        """The head's logits, float32 [N, C], of a fine-tuned run; raises UserError where an example is too long."""
        assert self.task is not None and self.config.finetune is not None
        scores, length = self.config.finetune.scores, self.config.model.context_length
        encoded = encode_examples(self.task, examples, self.tokenizer, length, scores)
        for line in encoded.describe_cut(length):
            warn_once(line)
        with self.on_mesh():
            return self._predict(self.params, encoded, EXAMPLES_AT_ONCE)

    def _describe(self, logits: np.ndarray) -> dict[str, Any]:
        assert self.task is not None and self.config.finetune is not None
        scores = self.config.finetune.scores
        label = predict_labels(self.task, logits[None], scores)[0]
        chances = probabilities(logits).tolist()
        if self.task.score_range:
            score = {"label": float(label)}
            if scores == "regression":
                return score
            low, high = self.task.score_range
            return score | {"probabilities": dict(zip(map(str, range(low, high + 1)), chances, strict=True))}
        if self.task.kind == "choice":
            return {"label": int(label), "probabilities": chances}
        return {
            "label": self.task.labels[label],
            "probabilities": dict(zip(self.task.labels, chances, strict=True)),
        }

    @cached_property
    def _logits(self) -> Any:
        trunk = self.trunk

        @jax.jit
        def logits(params: Any, tokens: jax.Array) -> jax.Array:
            hidden: Any = trunk.apply({"params": params}, tokens)
            return hidden[0].astype(jnp.float32) @ params["tokens"][: trunk.vocab_size].T

        return logits

    @cached_property
    def _generator(self) -> Generator:
        return Generator(self.trunk, self.mesh, self.trunk_params)

    @cached_property
    def _predict(self) -> Any:
        assert self.classifier is not None
        return make_predict(self.classifier, self.mesh)

    def _restore(self, abstract: Any, step: int | None) -> Any:
        checkpoints = Checkpoints(self.run.checkpoints)
        if step is None:
            restored = checkpoints.restore_newest(abstract, logging.warning)
            if restored is None:
                raise UserError(f"{self.run.directory} has no checkpoint yet; train it first.")
            return restored
        if step not in checkpoints.steps():
            known = ", ".join(map(str, checkpoints.steps())) or "none"
            raise UserError(f"{self.run.directory} has no checkpoint of step {step}; it has {known}.")
        try:
            return checkpoints.restore(step, abstract)
        except Damaged as error:
            raise UserError(
                f"Checkpoint {step} of {self.run.directory} is damaged ({error}); name another."
            ) from error


@lru_cache
def warn_once(sentence: str) -> None:
    """Tells a sentence on standard error, however often it comes up."""
    logging.warning(sentence)


def _fit_attention(config: Config, mesh: Mesh) -> Config:
    """The config with the attention it names or, where that is not to be had on these devices, what is."""
    try:
        model, _ = fit_attention(config.model, mesh, dropout=False)
    except UserError:
        model, _ = fit_attention(dataclasses.replace(config.model, attention="auto"), mesh, dropout=False)
    return dataclasses.replace(config, model=model)


def _mesh_at_hand(config: Config) -> Mesh:
    try:
        mesh = sharding.make_mesh(config.mesh)
        sharding.check_divisible(config, mesh)
    except UserError:
        return sharding.make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1))
    return mesh


def _read_json(run: Run, name: str) -> dict[str, Any]:
    try:
        return json.loads((run.directory / name).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{run.directory / name} cannot be read ({error}); restore it from a copy."
        ) from error
