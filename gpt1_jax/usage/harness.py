"""What lm-evaluation-harness (EleutherAI's `lm_eval`) asks of a model: scores of texts, and continuations of prompts.

Nothing here imports the harness, which is an extra; `gpt1_jax.lm_eval` joins the two.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gpt1_jax
from gpt1_jax.arguments import check_step, shown
from gpt1_jax.errors import UserError
from gpt1_jax.usage.scores import Scorer

# Prompts that are continued side by side.
_ROWS = 32
# What a task may set beside the most tokens, and the texts at which a continuation ends.
_SETTINGS = ("temperature", "top_k", "top_p", "repetition_penalty", "num_beams", "length_penalty")


class Answers:
    """The answers of a run's model; each request has its arguments in `args`.

    Texts are read as `TrainedRun.score` reads them, behind the tokenizer's end piece if it has one.

    Attributes:
        trained: the run.
        cache_hook: of the harness, which keeps answers.
    """

    cache_hook: Any

    def __init__(
        self,
        run: str,
        step: object = None,
        batch_size: object = None,
        max_batch_size: object = None,
        device: object = None,
    ) -> None:
        """Opens a run.

        Args:
            run: the run directory.
            step: best, last or a step; None as in `gpt1_jax.load`.
            batch_size, max_batch_size, device: what the harness tells every model. Here texts are batched by their
                length, and JAX chooses the device.

        Raises:
            UserError: there is no run, or no such checkpoint, or its model fills masks.
        """
        super().__init__()
        self.trained = gpt1_jax.load(run, check_step(step, "step"))
        self._scorer = Scorer(self.trained)
        self._roller = Scorer(self.trained, stride=self.trained.config.model.context_length, last_full=True)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Returns the log-probability of each continuation after its context, and whether greedy choice gives it."""
        asked = (request.args for request in requests)
        pairs = ({"context": context, "continuation": text} for context, text in asked)
        scores = ((score["total"], score["greedy"]) for score in self._scorer(pairs))
        return self._told("loglikelihood", requests, scores, disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Returns the log-probability of each text in the windows of the harness: disjoint, and the last one full."""
        scores = (score["total"] for score in self._roller(request.args[0] for request in requests))
        return self._told("loglikelihood_rolling", requests, scores, disable_tqdm)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Returns the continuation of each prompt, up to the first of the texts that end it."""
        return self._told("generate_until", requests, self._generate(requests), disable_tqdm)

    def get_model_info(self) -> dict[str, Any]:
        """Returns what the harness's results say of the model."""
        return {"model_run": str(self.trained.run.directory), "model_step": self.trained.step}

    def _told(self, kind: str, requests: Sequence[Any], answers: Iterable[Any], silent: bool) -> list[Any]:
        """Returns the answers, each of which goes into the harness's cache at once."""
        from tqdm import tqdm

        found = []
        for request, answer in zip(
            requests, tqdm(answers, total=len(requests), desc=kind, disable=silent), strict=True
        ):
            self.cache_hook.add_partial(kind, request.args, answer)
            found.append(answer)
        return found

    def _generate(self, requests: Sequence[Any]) -> Iterator[str]:
        number = 0
        for settings, same in itertools.groupby(requests, lambda request: request.args[1]):
            prompts = [request.args[0] for request in same]
            for start in range(0, len(prompts), _ROWS):
                yield from self._continue(prompts[start : start + _ROWS], settings, number + start)
            number += len(prompts)

    def _continue(self, prompts: list[str], given: Mapping[str, Any], number: int) -> list[str]:
        """Returns the continuations of prompts, of which the first is the `number`-th of all."""
        from lm_eval.models.utils import (  # pyright: ignore[reportMissingImports]
            normalize_gen_kwargs,
            postprocess_generated_text,
        )

        settings: dict[str, Any] = {**normalize_gen_kwargs(dict(given))}
        ends, most = settings.pop("until"), settings.pop("max_gen_toks")
        settings["temperature"] = settings.get("temperature", 1.0) if settings.pop("do_sample") else 0.0
        if unknown := sorted(settings.keys() - {*_SETTINGS}):
            raise UserError(
                f"A task sets {unknown[0]}={shown(settings[unknown[0]])} for its continuations, expected one of until, "
                f"max_gen_toks, do_sample, {', '.join(_SETTINGS)}; leave it out."
            )
        tokenizer, context = self.trained.tokenizer, self.trained.config.model.context_length
        lengths = map(len, tokenizer.encode_batch(prompts, threads=1))
        # Windows slide only where they must, since such prompts are continued one by one.
        fits = max(lengths) + most <= context
        settings |= {"max_new_tokens": most, "beyond_context": "stop" if fits else "slide"}
        settings["stop"] = [] if tokenizer.end_id is None else [tokenizer.end_id]
        texts = []
        for place, some in enumerate([prompts] if fits else [[prompt] for prompt in prompts]):
            texts += self._write(some, ends, settings | {"number": number + place})
        return [postprocess_generated_text(text, ends, None) for text in texts]

    def _write(self, prompts: list[str], ends: Sequence[str], settings: dict[str, Any]) -> list[str]:
        """Returns continuations that go on at least until each has one of the texts that end it."""

        def watch(texts: list[str]) -> None:
            if all(any(end in text for end in ends if end) for text in texts):
                raise _Enough(texts)

        try:
            written = self.trained.generate(prompts, watch=watch, **settings)
        except _Enough as enough:
            return enough.texts
        return [sample["text"] for each in written for sample in each["samples"]]


class _Enough(Exception):
    """All texts have what ends them."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self.texts = texts
