"""Continuing token sequences with a language model: what `generate` and the samples of pre-training share.

Letters: B rows (prompts times samples), P slots of the prompts, N new tokens at most, C the model's context length.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gpt1_jax.errors import UserError
from gpt1_jax.model.beams import Beams, search
from gpt1_jax.model.decoding import Prompts, Weights, begin, proceed, unstack
from gpt1_jax.model.sampling import Sampling
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.model.trunk import Trunk
from gpt1_jax.training import sharding

_LEAST = 16  # slots; sizes are rounded up to powers of two, so that few programs are compiled

Reason = Literal["length", "stop", "context"]


@dataclass(frozen=True)
class Generation:
    """How prompts are continued.

    Fields:
        max_new_tokens: of each sample.
        temperature: divides the logits; 0 takes the most probable token.
        top_k: draws from so many of the most probable tokens; 0 from all.
        top_p: draws from the fewest most probable tokens that together have this probability.
        repetition_penalty: a logit of a token that the text has already is divided by it, or multiplied where it is
            negative.
        num_beams: above 1 it is beam search, without any of the above.
        length_penalty: of beam search: the sum of log-probabilities is divided by the length to this power.
        num_samples: of each prompt; of beam search the best so many.
        seed: with it the samples of a prompt at its place are the same every time, whatever the other prompts.
        stop: tokens that end a sample; they are its last.
        beyond_context: what happens at the end of the positions the model has learned: the sample stops, or the window
            slides: its later half becomes the beginning of the next; or a prompt that leaves no room for max_new_tokens
            is refused.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    num_samples: int = 1
    seed: int = 0
    stop: tuple[int, ...] = ()
    beyond_context: Literal["stop", "slide", "refuse"] = "stop"

    def check(self, vocab_size: int) -> None:
        """Raises UserError where a field is out of its range, or fields do not go together."""
        for name, valid, expected in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or more"),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0"),
            ("num_beams", self.num_beams >= 1, "at least 1"),
            ("num_beams", self.num_beams <= vocab_size, f"at most the {vocab_size} pieces"),
            ("length_penalty", math.isfinite(self.length_penalty), "a finite number"),
            ("num_samples", self.num_samples >= 1, "at least 1"),
            ("seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
            ("stop", all(0 <= id < vocab_size for id in self.stop), f"ids from 0 to {vocab_size - 1}"),
            (
                "beyond_context",
                self.beyond_context in ("stop", "slide", "refuse"),
                "one of stop, slide, refuse",
            ),
        ):
            if not valid:
                raise UserError(f"{name}={getattr(self, name)} is out of range: expected {expected}.")
        if self.num_beams == 1:
            return
        for name, off in (("top_k", 0), ("top_p", 1.0), ("repetition_penalty", 1.0)):
            if getattr(self, name) != off:
                raise UserError(
                    f"{name}={getattr(self, name)} does not go with num_beams={self.num_beams}: beam search draws "
                    "nothing; leave one of them out."
                )
        if self.num_samples > self.num_beams:
            raise UserError(
                f"num_samples={self.num_samples} is more than num_beams={self.num_beams}; set at most as many."
            )
        if self.beyond_context == "slide":
            raise UserError(
                "beyond_context=slide does not go with num_beams: beams share one window; set stop or refuse."
            )


class Sample(NamedTuple):
    """A continuation: its tokens, the model's log-probability of each, why it ended, and a beam's score."""

    tokens: list[int]
    log_probabilities: list[float]
    reason: Reason
    score: float | None = None


class Generator:
    """A trained language model that continues sequences. Call it under the mesh."""

    def __init__(self, model: Trunk, mesh: Mesh, params: Any) -> None:
        """Raises UserError for an LSTM, which has no cache to go on from."""
        if not isinstance(model, Transformer):
            raise UserError("model.kind=lstm cannot continue text; name a run of a transformer.")
        self._model, self._mesh = model, mesh
        self._weights: Weights = unstack(model, params)
        self._gather = jax.jit(lambda arrays: arrays, out_shardings=sharding.replicated(mesh))

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        settings: Generation,
        watch: Callable[[list[list[int]]], None] | None = None,
        every: int = 1,
    ) -> list[list[Sample]]:
        """Continues each prompt.

        Args:
            prompts: token ids, at least one each.
            settings: how.
            watch: is shown all rows' new tokens so far, as often as there are `every` more; not by beam search.

        Returns:
            For each prompt its samples.

        Raises:
            UserError: a setting, a prompt's length or an id is out of range.
        """
        self._check(prompts, settings)
        if not prompts:
            return []
        if settings.num_beams > 1:
            return self._search([list(prompt) for prompt in prompts], settings)
        rows = [list(prompt) for prompt in prompts for _ in range(settings.num_samples)]
        keys = [
            (settings.seed, number, sample)
            for number in range(len(prompts))
            for sample in range(settings.num_samples)
        ]
        samples = self._sample(rows, keys, settings, watch, every)
        return [samples[i : i + settings.num_samples] for i in range(0, len(samples), settings.num_samples)]

    def _check(self, prompts: Sequence[Sequence[int]], settings: Generation) -> None:
        settings.check(self._model.vocab_size)
        context, size = self._model.config.context_length, self._model.vocab_size
        for prompt in prompts:
            if not prompt:
                raise UserError("A prompt has no tokens; give at least a word.")
            if not all(0 <= id < size for id in prompt):
                raise UserError(f"A prompt has an id that is none of the {size} pieces; encode a text.")
            most = context - (settings.max_new_tokens if settings.beyond_context == "refuse" else 1)
            if settings.beyond_context != "slide" and len(prompt) > most:
                room = f"{settings.max_new_tokens} new ones do" if most < context - 1 else "a new one does"
                raise UserError(
                    f"A prompt of {len(prompt)} tokens leaves no room in the context: {room} not fit into "
                    f"{context}; shorten it, or set beyond_context=slide."
                )

    # ── Sampling ─────────────────────────────────────────────────────────────────────────────────────────────

    def _sample(
        self,
        texts: list[list[int]],
        keys: list[tuple[int, int, int]],
        settings: Generation,
        watch: Callable[[list[list[int]]], None] | None,
        every: int,
    ) -> list[Sample]:
        """A sample of each text; windows follow one another where they slide."""
        context, sliding = self._model.config.context_length, settings.beyond_context == "slide"
        given, wanted = [len(text) for text in texts], settings.max_new_tokens
        chances: list[list[float]] = [[] for _ in texts]
        sampling, stops = _sampling(settings), jnp.array(settings.stop, jnp.int32)
        random = _keys(keys)
        starts = [0] * len(texts)
        drawn, open_rows = 0, list(range(len(texts)))
        while open_rows:
            for row in open_rows:
                if len(texts[row]) - starts[row] >= context:
                    starts[row] = len(texts[row]) - context // 2
            windows = [texts[row][starts[row] :] for row in open_rows]
            # All windows go on together, so far as the longest of them can.
            room = context - max(map(len, windows)) if sliding else context
            steps = min(wanted - drawn, room)
            limits = [wanted - drawn if sliding else min(wanted, context - len(window)) for window in windows]
            prompts = self._prompts(windows, limits, [random[row] for row in open_rows], drawn)
            prompts = self._remember(prompts, [texts[row] for row in open_rows], settings)
            state = begin(self._model, self._weights, prompts, sampling, stops, _bucket(steps))
            until = 1
            while True:
                (done,) = self._read(state.done)
                done = done[: len(open_rows)]
                if watch is not None and drawn + until < wanted:
                    counts, tokens = self._read(state.counts, state.tokens)
                    news = {row: tokens[i, : counts[i]].tolist() for i, row in enumerate(open_rows)}
                    watch([texts[i][given[i] :] + news.get(i, []) for i in range(len(texts))])
                if until >= steps or done.all():
                    break
                until = min(until + every, steps) if watch is not None else steps
                state = proceed(self._model, self._weights, state, prompts, sampling, stops, jnp.int32(until))
            counts, tokens, found = self._read(state.counts, state.tokens, state.log_probabilities)
            for i, row in enumerate(open_rows):
                texts[row] += tokens[i, : counts[i]].tolist()
                chances[row] += found[i, : counts[i]].tolist()
            drawn += steps
            open_rows = [row for row, ended in zip(open_rows, done, strict=True) if not ended]
        if watch is not None:
            watch([text[count:] for text, count in zip(texts, given, strict=True)])
        return [
            Sample(text[count:], values, _reason(text[count:], settings))
            for text, count, values in zip(texts, given, chances, strict=True)
        ]

    def _remember(self, prompts: Prompts, texts: list[list[int]], settings: Generation) -> Prompts:
        """The prompts with the pieces that their texts have, where a penalty is on them."""
        if settings.repetition_penalty == 1:
            return prompts
        seen = np.zeros((len(prompts.limits), self._model.vocab_size), bool)
        for row, text in enumerate(texts):
            seen[row, text] = True
        return prompts._replace(seen=self._placed(seen))

    # ── Beam search ──────────────────────────────────────────────────────────────────────────────────────────

    def _search(self, texts: list[list[int]], settings: Generation) -> list[list[Sample]]:
        context, wanted = self._model.config.context_length, settings.max_new_tokens
        limits = [min(wanted, context - len(text)) for text in texts]
        beams = search(
            self._model,
            self._weights,
            self._prompts(texts, limits, _keys([(0, 0, 0)] * len(texts)), 0),
            jnp.array(settings.stop, jnp.int32),
            jnp.float32(settings.length_penalty),
            settings.num_beams,
            _bucket(max(limits)),
        )
        found: Any = Beams(*cast(Any, self._read(*beams)))
        samples = []
        for row in range(len(texts)):
            beams = []
            for beam in range(settings.num_samples):
                count = found.lengths[row, beam]
                tokens = found.tokens[row, beam, :count].tolist()
                values = found.log_probabilities[row, beam, :count].tolist()
                reason = _reason(tokens, settings)
                beams.append(Sample(tokens, values, reason, float(found.scores[row, beam])))
            samples.append(beams)
        return samples

    # ── Arrays ───────────────────────────────────────────────────────────────────────────────────────────────

    def _prompts(
        self, windows: list[list[int]], limits: list[int], keys: Sequence[jax.Array], drawn: int
    ) -> Prompts:
        """Right-aligned rows, as many as divide over the mesh: those in excess end at once."""
        parts = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        batch, width = -(-len(windows) // parts) * parts, _bucket(max(map(len, windows)))
        tokens = np.zeros((batch, width), np.int32)
        first = np.full(batch, width - 1, np.int32)
        for row, window in enumerate(windows):
            tokens[row, width - len(window) :] = window
            first[row] = width - len(window)
        limits = limits + [1] * (batch - len(windows))
        filled = [*keys] + [keys[0]] * (batch - len(windows))
        return Prompts(
            self._placed(tokens),
            self._placed(first),
            self._placed(np.array(limits, np.int32)),
            jnp.stack(filled),
            jnp.int32(drawn),
            None,
        )

    def _read(self, *arrays: jax.Array) -> tuple[np.ndarray, ...]:
        """Arrays of the devices on every host, also what other hosts hold."""
        return jax.device_get(self._gather(arrays))

    def _placed(self, rows: np.ndarray) -> jax.Array:
        place = sharding.batch_sharding(self._mesh)
        return jax.make_array_from_callback(rows.shape, place, lambda index: rows[index])


def _keys(numbers: list[tuple[int, int, int]]) -> list[jax.Array]:
    """A random key for each row, made of (seed, prompt, sample)."""
    return [functools.reduce(jax.random.fold_in, parts, jax.random.key(seed)) for seed, *parts in numbers]


def _sampling(settings: Generation) -> Sampling:
    return Sampling(
        temperature=jnp.float32(settings.temperature) if settings.temperature else None,
        top_k=jnp.int32(settings.top_k) if settings.top_k else None,
        top_p=jnp.float32(settings.top_p) if settings.top_p < 1 else None,
        repetition_penalty=(
            jnp.float32(settings.repetition_penalty) if settings.repetition_penalty != 1 else None
        ),
    )


def _reason(tokens: list[int], settings: Generation) -> Reason:
    if tokens[-1] in settings.stop:
        return "stop"
    return "length" if len(tokens) == settings.max_new_tokens else "context"


def _bucket(count: int) -> int:
    return max(_LEAST, 1 << (count - 1).bit_length())
