"""An opened run directory: what `gpt1_jax.load` returns, and what the commands share.

Letters: T positions, V the tokenizer's pieces, N examples, C outputs of the head.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache, cached_property, partial
from typing import Any, Literal, SupportsIndex, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from gpt1_jax.arguments import (
    check_function,
    check_ids,
    check_integer,
    check_path,
    check_step,
    check_text,
    shown,
)
from gpt1_jax.devices.compile_cache import keep_compiled
from gpt1_jax.devices.mesh import mesh_at_hand, use
from gpt1_jax.errors import UserError
from gpt1_jax.model import output
from gpt1_jax.model.decoding.generator import Generator
from gpt1_jax.model.decoding.settings import BeyondContext, Generation, Settings
from gpt1_jax.model.kernels.choice import or_auto
from gpt1_jax.model.specials import SPECIALS
from gpt1_jax.model.transformer import parameter_count
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.run import Run
from gpt1_jax.tasks.classifier import make_classifier
from gpt1_jax.tasks.predictions import Prediction
from gpt1_jax.tasks.task import Example
from gpt1_jax.training.chosen import restore_chosen
from gpt1_jax.training.evaluation import Predict, make_predict
from gpt1_jax.training.kept import sound_tokenizer, task_of
from gpt1_jax.training.state import abstract_state
from gpt1_jax.usage import labeling, scores
from gpt1_jax.usage.continuation import Continued, describe, growing_text, read_prompts
from gpt1_jax.usage.notices import check_finite
from gpt1_jax.usage.scores import ContinuationScore, TextScore


class TrainedRun:
    """A trained model with its tokenizer, on the mesh of its config if the available devices allow that.

    If they do not, each device has a copy of the parameters.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        step: SupportsIndex | Literal["best", "last"] | None = None,
    ) -> None:
        """Opens a checkpoint of a run, see `training.chosen.restore_chosen`.

        Raises:
            UserError: there is no run, no such checkpoint, or no sound one.
        """
        self.run = Run(check_path(directory, "directory"))
        chosen = check_step(step, "step")
        self.config = self.run.config()
        keep_compiled(self.config.data.cache_dir)
        self.tokenizer = sound_tokenizer(self.run)
        self.mesh = mesh_at_hand(self.config.mesh, self.config.model, self.config.train.rows)
        self.task = task_of(self.run)
        model = or_auto(self.config.model, self.mesh.devices.flat[0].platform)
        if self.task is None:
            self.classifier = None
            self.trunk = make_trunk(model, self.tokenizer.vocab_size)
        else:
            assert self.config.finetune is not None
            self.classifier = make_classifier(
                model, self.config.finetune, self.task, self.tokenizer.vocab_size
            )
            self.trunk = self.classifier.trunk
        abstract = abstract_state(self.classifier or self.trunk, optax.identity(), self.mesh)
        parts = {"step": abstract.step, "params": abstract.params}
        restored = restore_chosen(self.run, parts, chosen, logging.warning)
        self.step, self.params = int(restored["step"]), restored["params"]

    def __repr__(self) -> str:
        """Describes the run: `TrainedRun(runs/books: pre-trained, 4,240,384 parameters, step 1,500, …)`."""
        stage = "pre-trained" if self.task is None else f"fine-tuned on {self.task.name} ({self.task.kind})"
        pieces = self.tokenizer.vocab_size
        parameters = parameter_count(self.params, pieces if self.task is None else pieces + SPECIALS)
        return (
            f"TrainedRun({self.run.directory}: {stage}, {parameters:,} parameters, step {self.step:,}, "
            f"{self.config.data.tokenizer} of {pieces:,} pieces)"
        )

    @property
    def trunk_params(self) -> Any:
        """The parameters of the language model."""
        return self.params if self.classifier is None else self.params["trunk"]

    def on_mesh(self) -> AbstractContextManager[Any]:
        """The context for calling the model's functions."""
        stack = ExitStack()
        stack.enter_context(use(self.mesh))
        # Everything here is made for 32 bits, whatever the caller has set.
        stack.enter_context(jax.enable_x64(False))
        return stack

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text.

        Raises:
            UserError: it is not a text.
        """
        return self.tokenizer.encode(check_text(text, "text"))

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Returns the text of ids.

        Raises:
            UserError: they are not ids.
        """
        return self.tokenizer.decode(check_ids(ids, "ids", self.tokenizer.vocab_size))

    def logits(self, ids: Iterable[SupportsIndex]) -> np.ndarray:
        """Returns the logits of what follows each id, or of what stands there if the model fills masks, float32 [T, V].

        Raises:
            UserError: there are no ids, or more than the context holds, or one is not a piece.
        """
        length = self.config.model.context_length
        ids = check_ids(ids, "ids", self.tokenizer.vocab_size)
        if not 0 < len(ids) <= length:
            raise UserError(
                f"ids has {len(ids)} tokens, expected 1 to {length}, the model's context; cut it."
            )
        rows = np.zeros((self.mesh.shape["data"] * self.mesh.shape["fsdp"], len(ids)), np.int32) + np.array(
            ids, np.int32
        )
        with self.on_mesh():
            return check_finite(np.array(self._logits(self.trunk_params, rows)))

    @overload
    def generate(
        self,
        prompt: str | Iterable[SupportsIndex],
        *,
        watch: Callable[[list[str]], None] | None = None,
        number: int = 0,
        **settings: Unpack[Settings],
    ) -> Continued: ...

    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...],
        *,
        watch: Callable[[list[str]], None] | None = None,
        number: int = 0,
        **settings: Unpack[Settings],
    ) -> list[Continued]: ...

    def generate(
        self,
        prompt: str | Iterable[SupportsIndex] | list[str] | tuple[str, ...],
        *,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        num_samples: int = 1,
        seed: int = 0,
        stop: Sequence[int] = (),
        beyond_context: BeyondContext = "stop",
        watch: Callable[[list[str]], None] | None = None,
        number: int = 0,
    ) -> Continued | list[Continued]:
        """Continues a text or several texts. The settings are those of `decoding.settings.Generation`.

        Args:
            prompt: a text or its token ids, or a list of texts, which are continued side by side.
            watch: called with the texts of all samples so far, as they grow; not used by beam search.
            number: the place of the first prompt within a longer list. Each place draws random numbers of its own, so
                `generate(texts[i:], number=i)` continues as `generate(texts)` does from place i on.

        Returns:
            A dictionary as described by `Continued`, or for a list of texts a list of them.

        Raises:
            UserError: a setting is out of range, or a prompt is not a text, or does not fit.
        """
        settings = Generation(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            num_beams=num_beams,
            length_penalty=length_penalty,
            num_samples=num_samples,
            seed=seed,
            stop=stop,
            beyond_context=beyond_context,
        ).checked(self.tokenizer.vocab_size)
        watch, number = check_function(watch, "watch"), check_integer(number, "number")
        if not 0 <= number < 2**31:
            raise UserError(f"number={shown(number)} is out of range; give 0 to 2**31 - 1.")
        prompts, several = read_prompts(self.tokenizer, prompt)

        def show(rows: list[list[int]]) -> None:
            assert watch is not None
            begun = [prompts[i // settings.num_samples] for i in range(len(rows))]
            pairs = zip(begun, rows, strict=True)
            watch([growing_text(self.tokenizer, prompt, row, settings.stop) for prompt, row in pairs])

        with self.on_mesh():
            ids = [prompt.ids for prompt in prompts]
            found = self._generator(ids, settings, None if watch is None else show, first=number)
        for samples in found:
            check_finite([chance for sample in samples for chance in sample.log_probabilities])
        results = [
            describe(self.tokenizer, prompt, samples, settings.stop)
            for prompt, samples in zip(prompts, found, strict=True)
        ]
        return results if several else results[0]

    def predict(self, records: Iterable[Mapping[str, object]]) -> list[Prediction]:
        """Labels new examples with a fine-tuned run.

        Args:
            records: the texts of each example, by the names of the task's kind (`tasks.task.ROLES`) or by the data
                set's own names.

        Returns:
            For each record a dictionary as described by `Prediction`.

        Raises:
            UserError: the run was not fine-tuned, or a record is not an example of its task; the error gives the
                record's number, from 1.
        """
        return labeling.predict(self, records)

    def predict_logits(self, examples: Sequence[Example]) -> np.ndarray:
        """Returns the head's logits of a fine-tuned run, float32 [N, C].

        Raises:
            UserError: an example is too long.
        """
        return labeling.predict_logits(self, examples)

    @overload
    def score(self, texts: str, *, top: int = 0, stride: int | None = None) -> TextScore: ...

    @overload
    def score(
        self, texts: list[str] | tuple[str, ...], *, top: int = 0, stride: int | None = None
    ) -> list[TextScore]: ...

    @overload
    def score(
        self, texts: Sequence[Mapping[str, str]], *, top: int = 0, stride: int | None = None
    ) -> list[ContinuationScore]: ...

    def score(
        self,
        texts: str | list[str] | tuple[str, ...] | Sequence[Mapping[str, str]],
        *,
        top: int = 0,
        stride: int | None = None,
    ) -> Any:
        """Returns how probable the model finds texts, or continuations.

        Args:
            texts: a text, a list of texts, or a list of records of a "context" and its "continuation".
            top: the number of alternatives to tell in the place of each token.
            stride: a text longer than the context is read in windows that begin so many tokens apart, and each token
                is scored in the first window that reaches it. By default half the context, so that each token comes
                after half a context or more; the context itself gives disjoint windows, as `evaluate` has them.

        Returns:
            A dictionary as described by `TextScore`, or for a list of texts a list of them; for each record one as
            described by `ContinuationScore`.

        Raises:
            UserError: something is neither a text nor such a record, or a number is out of range.
        """
        return scores.score(self, texts, top, stride)

    @cached_property
    def token_readings(self) -> Callable[[int], Any]:
        """The function from a number of alternatives to `scores.make_token_readings`."""
        return cache(partial(scores.make_token_readings, self))

    @cached_property
    def _logits(self) -> Callable[[Any, np.ndarray], jax.Array]:
        trunk = self.trunk

        @jax.jit
        def logits(params: Any, tokens: jax.Array) -> jax.Array:
            hidden: Any = trunk.apply({"params": params}, tokens)
            return output.logits(trunk.config, params, hidden[0].astype(jnp.float32), trunk.vocab_size)

        return logits

    @cached_property
    def _generator(self) -> Generator:
        return Generator(self.trunk, self.mesh, self.trunk_params)

    @cached_property
    def head_logits(self) -> Predict:
        """The function from parameters and encoded examples to the head's logits."""
        assert self.classifier is not None
        return make_predict(self.classifier, self.mesh)
