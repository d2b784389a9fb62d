"""An opened run directory: what `gpt1_jax.load` returns, and what the commands share.

Letters: T positions, V the tokenizer's pieces, D width, L layers, H heads, N texts or examples, C outputs of the head.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Literal, SupportsIndex, Unpack, overload

import jax
import numpy as np
import optax
from absl import logging

from gpt1_jax.arguments import check_ids, check_path, check_step, check_text
from gpt1_jax.data.documents import Documents
from gpt1_jax.data.shapes import bounds_on
from gpt1_jax.devices.compile_cache import keep_compiled
from gpt1_jax.devices.mesh import mesh_at_hand, use
from gpt1_jax.model.decoding.settings import BeyondContext, Generation, Settings
from gpt1_jax.model.kernels.choice import or_auto
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.run import Run
from gpt1_jax.tasks.classifier import make_classifier
from gpt1_jax.tasks.predictions import Prediction
from gpt1_jax.tasks.task import Example
from gpt1_jax.training.chosen import restore_chosen
from gpt1_jax.training.kept import sound_tokenizer, task_of
from gpt1_jax.training.state import abstract_state
from gpt1_jax.usage import continuation, evaluating, explaining, labeling, scores, states
from gpt1_jax.usage.continuation import Continued
from gpt1_jax.usage.displays import display, facts_of
from gpt1_jax.usage.explaining import Explanation
from gpt1_jax.usage.scores import ContinuationScore, TextScore
from gpt1_jax.usage.states import Guess


class TrainedRun:
    """A trained model with its tokenizer, on the mesh of its config or, if the devices do not allow that, in copies."""

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
        self.documents = Documents.of(self.config.data, self.tokenizer)
        self.bounds = bounds_on(self.mesh, self.config.model.context_length)
        self._compiled: dict[Any, Any] = {}

    def __repr__(self) -> str:
        """Returns such as `TrainedRun(runs/books: pre-trained, 4,240,384 parameters, step 1,500, …)`."""
        return f"TrainedRun({self.run.directory}: {', '.join(facts_of(self))})"

    def _repr_html_(self) -> str:
        return display({"run": f"{self.run.directory}", "is": facts_of(self)})._repr_html_()

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
        return states.logits(self, ids)

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
        )
        return display(continuation.generate(self, prompt, settings, watch, number))

    def evaluate(self, given: object = None) -> dict[str, float]:
        """Returns scores, as the command `evaluate` prints them.

        Args:
            given: labeled examples as `gpt1_jax.finetune` takes them, or texts; by default what the run holds out.

        Raises:
            UserError: something else is given, or the run's own data cannot be read any more.
        """
        return display(evaluating.evaluate(self) if given is None else evaluating.evaluate_given(self, given))

    @overload
    def predict(self, records: str) -> Prediction: ...

    @overload
    def predict(
        self,
        records: Sequence[Mapping[str, object] | tuple[Any, ...] | list[Any]] | list[str] | tuple[str, ...],
    ) -> list[Prediction]: ...

    def predict(self, records: object) -> Prediction | list[Prediction]:
        """Labels new examples with a fine-tuned run.

        Args:
            records: a pandas frame, or for each example a dictionary of its texts, by the names of the task's kind
                (`tasks.task.ROLES`) or the data set's own; a tuple of them in order; or of a kind with one text that
                text. A text alone is one example.

        Returns:
            For each example a dictionary as described by `Prediction`.

        Raises:
            UserError: the run was not fine-tuned, or these are no examples of its task.
        """
        return display(labeling.predict(self, records))

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
            stride: windows of a text longer than the context begin so many tokens apart, and a token is scored in the
                first that reaches it; by default half the context, so that each comes after as much or more. The
                context itself gives disjoint windows, as `evaluate` has them.

        Returns:
            A dictionary as described by `TextScore`, or for a list of texts a list of them; for each record one as
            described by `ContinuationScore`.

        Raises:
            UserError: something is neither a text nor such a record, or a number is out of range.
        """
        return display(scores.score(self, texts, top, stride))

    def next_tokens(self, text: str | Iterable[SupportsIndex], n: int = 10) -> list[Guess]:
        """Returns the `n` most probable pieces behind a text, or behind token ids, with their probabilities.

        Raises:
            UserError: the model fills blanks instead, or the text is none or too long.
        """
        return display(states.next_tokens(self, text, n))

    def fill(self, text: str | Iterable[SupportsIndex], n: int = 5) -> list[list[Guess]]:
        """Returns the `n` most probable pieces in each blank of a text, with their probabilities.

        Args:
            text: with [MASK] where something is to be filled in, once or more often.
            n: the number of pieces for each blank.

        Raises:
            UserError: the model is no BERT, or the text has no blank or is too long.
        """
        return display(states.fill(self, text, n))

    def states(self, text: str | Iterable[SupportsIndex], layer: int = -1) -> np.ndarray:
        """Returns the states of a text's tokens behind a layer, float32 [T, D].

        Args:
            text: a text or its token ids. A BERT reads a text between [CLS] and [SEP], which have states too.
            layer: 0 for the embeddings that the first block reads, 1 to L for the blocks; −1 is the last, whose states
                are those that predictions are made from.

        Raises:
            UserError: the text is none or too long, or there is no such layer.
        """
        return states.states(self, text, layer)

    def attention(self, text: str | Iterable[SupportsIndex]) -> np.ndarray:
        """Returns how much each token of a text attends to each other in every head, float32 [L, H, T, T].

        The third axis is the token that attends, whose weights on the tokens of the last axis sum to 1.

        Args:
            text: as in `states`.

        Raises:
            UserError: the text is none or too long, or the model has no attention.
        """
        return states.attention(self, text)

    def embed(self, texts: str | Iterable[str]) -> np.ndarray:
        """Returns vectors of length 1, so that the product of two is their cosine: the mean of each text's last states.

        The mean goes over all tokens that the model reads: in a BERT also [CLS] and [SEP], in a causal model the text's
        own, of which the first have seen little. A text longer than the context is cut.

        Returns:
            float32 [D], or [N, D] for a list of N texts; a text without tokens has zeros.

        Raises:
            UserError: one of them is not a text.
        """
        return states.embed(self, texts)

    def explain(self, text: str, beside: "TrainedRun | None" = None) -> Explanation:
        """Returns what the model makes of a text, token by token, as an object that shows itself in a notebook.

        It has surprisal, the most probable pieces, attention, and what the states behind each layer would predict;
        `save(path)` writes it as a page that opens anywhere.

        Args:
            text: the text; of a long one the first tokens are shown.
            beside: another run, whose log-probabilities of the same text are compared.

        Raises:
            UserError: the text is none, or a model is no Transformer.
        """
        return explaining.explain(self, text, beside)

    def compiled(self, make: Callable[..., Any], *settings: Any) -> Any:
        """Returns `make(run, *settings)`, a function that reads parameters, and makes it only once."""
        key = make, *settings
        if key not in self._compiled:
            self._compiled[key] = make(self, *settings)
        return self._compiled[key]
