"""Continues token sequences with a language model, for `generate` and for the samples of pre-training.

Letters: B rows (prompts times samples), P slots of the prompts, N new tokens at most, C the model's context length.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gpt1_jax.devices.memory import memory_at_hand
from gpt1_jax.devices.mesh import batch_sharding, replicated
from gpt1_jax.devices.overlap import in_halves, one_cpu
from gpt1_jax.errors import UserError
from gpt1_jax.model.decoding.beams import Beams, search
from gpt1_jax.model.decoding.decode import (
    Anew,
    Begins,
    Pace,
    Prompts,
    Rules,
    Sequences,
    Weights,
    enter,
    proceed,
    unstack,
    vacant,
)
from gpt1_jax.model.decoding.samples import Growing, Sample, reason_of
from gpt1_jax.model.decoding.sampling import sampling_of
from gpt1_jax.model.decoding.settings import Generation
from gpt1_jax.model.output import check_continues
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.model.trunk import Trunk
from gpt1_jax.wording import counted

Watch = Callable[[list[list[int]]], None]

# In slots. Sizes are rounded up to powers of two, so that few programs are compiled.
_LEAST = 16
# Each device has this many bytes for caches and logits, and so many rows at most.
_MEMORY, _ROWS_ON_CPUS, _ROWS = 2**31, 16, 256
# So many tokens of prompts are read together. On CPUs the states of more leave the caches.
_TOKENS_ON_CPUS, _TOKENS = 2**10, 2**14
# Prompts wait until this share of the rows is vacant, so that few are read alone.
_SHARE = 8


class Generator:
    """A trained language model that continues sequences. Call it under the mesh."""

    def __init__(
        self, model: Trunk, mesh: Mesh, params: Any, anew: int | None = None, restart: bool = False
    ) -> None:
        """Prepares the parameters for decoding.

        Args:
            model: the model.
            mesh: where it computes.
            params: its parameters.
            anew: the piece behind which a text begins anew, so that nothing is seen of what is before it; None for
                none.
            restart: whether its positions begin anew as well.

        Raises:
            UserError: the model is an LSTM, which has no cache to go on from, or predicts no next tokens.
        """
        check_continues(model.config, "Continuing a text")
        if not isinstance(model, Transformer):
            raise UserError("model.kind=lstm cannot continue text; name a run of a transformer.")
        self._model, self._mesh = model, mesh
        self._parts = mesh.shape["data"] * mesh.shape["fsdp"]
        self._anew, self._restart = anew, restart
        self._weights: Weights = unstack(model, params)
        self._gather = jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        settings: Generation,
        watch: Watch | None = None,
        every: int = 1,
        first: int = 0,
    ) -> list[list[Sample]]:
        """Continues each prompt.

        Args:
            prompts: token ids, at least one each.
            settings: how to continue.
            watch: called with all rows' new tokens so far, after every `every` tokens; not used by beam search.
            every: see `watch`.
            first: the number of the first prompt, if these are part of a longer list; random draws depend on the
                number.

        Returns:
            For each prompt its samples.

        Raises:
            UserError: a setting, a prompt's length or an id is out of range.
        """
        settings = settings.checked(self._model.vocab_size)
        self._check(prompts, settings)
        if not prompts:
            return []
        texts = [list(prompt) for prompt in prompts]
        if settings.num_beams > 1:
            some = self._beams_at_once(texts, settings)
            groups = [texts[start : start + some] for start in range(0, len(texts), some)]
            return [beams for group in groups for beams in self._search(group, settings)]
        numbers = first + np.arange(len(texts))
        if watch is None and self._fill_two(texts, settings):

            def draw(half: slice, halted: Callable[[], bool]) -> list[list[Sample]]:
                return self._draw(texts[half], settings, numbers[half], halted=halted)

            return in_halves(draw, len(texts), self._mesh)
        return self._draw(texts, settings, numbers, watch, every)

    def _check(self, prompts: Sequence[Sequence[int]], settings: Generation) -> None:
        context, size = self._model.config.context_length, self._model.vocab_size
        for number, prompt in enumerate(prompts, start=1):
            which = f"Prompt {number}: " if len(prompts) > 1 else ""
            if not prompt:
                raise UserError(f"{which}A prompt has no tokens; give at least a word.")
            if not all(0 <= id < size for id in prompt):
                raise UserError(
                    f"{which}A prompt has an id outside the {counted(size, 'piece')}; encode a text."
                )
            most = context - (settings.max_new_tokens if settings.beyond_context == "refuse" else 1)
            if settings.beyond_context != "slide" and len(prompt) > most:
                room = f"{settings.max_new_tokens} new ones do" if most < context - 1 else "a new one does"
                raise UserError(
                    f"{which}A prompt of {counted(len(prompt), 'token')} leaves no room in the context: {room} not fit "
                    f"into {context}; shorten it, or set beyond_context=slide."
                )

    # ── Memory ───────────────────────────────────────────────────────────────────────────────────────────────

    def _rows_at_once(self, texts: list[list[int]], settings: Generation) -> int:
        """Returns how many rows to continue together, at least one for each part of the mesh."""
        return max(1, _MEMORY // self._row_bytes(texts, settings)) * self._parts

    def _beams_at_once(self, texts: list[list[int]], settings: Generation) -> int:
        """Returns for how many prompts to search together.

        Raises:
            UserError: the memory does not suffice for one.
        """
        needed = settings.num_beams * self._row_bytes(texts, settings)
        room = memory_at_hand(self._mesh)
        if room is not None and needed > room:
            raise UserError(
                f"num_beams={settings.num_beams} needs at least {needed / 1e9:,.3g} GB per device, but there are "
                f"{room / 1e9:,.3g} GB; set fewer."
            )
        return max(1, _MEMORY // needed) * self._parts

    def _row_bytes(self, texts: list[list[int]], settings: Generation) -> int:
        """Returns a row's bytes on its device: its caches, and its logits with all that sorting and drawing add."""
        config = self._model.config
        longest = min(max(map(len, texts)), config.context_length)
        slots = _bucket(longest) + _bucket(min(settings.max_new_tokens, config.context_length))
        caches = 2 * config.num_layers * config.d_model * slots * jnp.dtype(config.dtype).itemsize
        return caches + 8 * 4 * self._model.vocab_size

    # ── Sampling ─────────────────────────────────────────────────────────────────────────────────────────────

    def _draw(
        self,
        texts: list[list[int]],
        settings: Generation,
        numbers: np.ndarray,
        watch: Watch | None = None,
        every: int = 1,
        halted: Callable[[], bool] = lambda: False,
    ) -> list[list[Sample]]:
        """Returns the samples of each text. A sample that is done leaves its row to one that waits.

        Args:
            texts, settings: as in `__call__`.
            numbers: int [P], the texts' own, from which random draws come.
            watch, every: as in `__call__`.
            halted: returns whether the samples are not wanted any more.
        """
        count = settings.num_samples
        places, which = np.divmod(np.arange(len(texts) * count), count)
        keys = _keys(settings.seed, numbers[places], which)
        samples = [Growing(list(texts[place]), len(texts[place])) for place in places]
        for sample in samples:
            sample.slide(self._model.config.context_length)
        sampling, rules = sampling_of(settings, self._model.vocab_size), self._rules(settings.stop)
        rows = self._rows(len(samples), texts, settings)
        some = -(-max(1, rows // _SHARE) // self._parts) * self._parts
        longest = max(len(sample.window) for sample in samples)
        # Together, all prompts would be as wide as the longest.
        room = self._parts * self._on_cpus(_TOKENS_ON_CPUS, _TOKENS) // _bucket(longest)
        most = rows if rows <= room else some
        state = self._vacant(rows, longest, settings)
        # Long prompts come first, so prompts that are read together have about one length.
        waiting = sorted(range(len(samples)), key=lambda number: len(samples[number].window))
        living: dict[int, int] = {}
        while (living or waiting) and not halted():
            free = [row for row in range(rows) if row not in living]
            if free and waiting:
                size = most if min(len(free), len(waiting)) > rows // 2 else some
                entering = {row: waiting.pop() for row in free[: min(size, len(waiting))]}
                chosen, surplus = [*entering.values()], size - len(entering)
                prompts = self._reading(
                    [samples[number] for number in chosen],
                    keys[np.array(chosen + chosen[:1] * surplus)],
                    settings,
                )
                into = jnp.array([*entering] + [rows] * surplus, jnp.int32)
                state = enter(self._model, self._weights, state, prompts, into, sampling)
                living |= entering
            else:
                pace = Pace(
                    jnp.int32(every if watch is not None else settings.max_new_tokens),
                    jnp.int32(some if waiting else rows),
                )
                state = proceed(self._model, self._weights, state, rules, sampling, pace)
            done, counts, tokens, chances = self._read(
                state.done, state.counts, state.tokens, state.log_probabilities
            )
            if watch is not None:
                news = {number: tokens[row, : counts[row]].tolist() for row, number in living.items()}
                watch([sample.new + news.get(number, []) for number, sample in enumerate(samples)])
            for row, number in [*living.items()]:
                if done[row]:
                    del living[row]
                    grown = samples[number]
                    grown.text += tokens[row, : counts[row]].tolist()
                    grown.chances += chances[row, : counts[row]].tolist()
                    reason = reason_of(grown.new, settings)
                    if reason == "context" and settings.beyond_context == "slide":
                        grown.slide(self._model.config.context_length)
                        waiting.append(number)
        found = [Sample(sample.new, sample.chances, reason_of(sample.new, settings)) for sample in samples]
        return [found[start : start + count] for start in range(0, len(found), count)]

    def _rows(self, samples: int, texts: list[list[int]], settings: Generation) -> int:
        """Returns how many rows samples share: a power of two, if memory and the mesh allow it."""
        most = self._on_cpus(_ROWS_ON_CPUS, _ROWS)
        wanted = min(1 << (samples - 1).bit_length(), most, self._rows_at_once(texts, settings))
        return -(-wanted // self._parts) * self._parts

    def _on_cpus(self, there: int, elsewhere: int) -> int:
        return there if self._mesh.devices.flat[0].platform == "cpu" else elsewhere

    def _fill_two(self, texts: list[list[int]], settings: Generation) -> bool:
        """Returns whether texts are worth two threads: there is one CPU, and each half has samples for all rows."""
        return one_cpu(self._mesh) and len(texts) >= 2 * self._rows(len(texts), texts, settings)

    def _vacant(self, rows: int, longest: int, settings: Generation) -> Sequences:
        size = _bucket(min(settings.max_new_tokens, self._model.config.context_length))
        penalty = settings.repetition_penalty != 1
        return vacant(self._model, rows, _bucket(longest) + size, size, penalty)

    def _reading(self, samples: list[Growing], keys: jax.Array, settings: Generation) -> Prompts:
        """Returns the windows of samples as prompts, as many as there are keys."""
        context, windows = self._model.config.context_length, [sample.window for sample in samples]
        limits = [
            min(settings.max_new_tokens - len(sample.new), context - len(window))
            for sample, window in zip(samples, windows, strict=True)
        ]
        drawn = [len(sample.new) for sample in samples]
        prompts = self._prompts(windows, limits, self._rules(settings.stop), keys, drawn)
        return self._remember(prompts, [sample.text for sample in samples], settings)

    def _remember(self, prompts: Prompts, texts: list[list[int]], settings: Generation) -> Prompts:
        """Adds to the prompts, if there is a repetition penalty, the pieces that their texts contain."""
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
        keys = _keys(0, *np.zeros((2, -(-len(texts) // self._parts) * self._parts), int))
        beams = search(
            self._model,
            self._weights,
            self._prompts(texts, limits, self._rules(settings.stop), keys, [0] * len(texts)),
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
                reason = reason_of(tokens, settings)
                beams.append(Sample(tokens, values, reason, float(found.scores[row, beam])))
            samples.append(beams)
        return samples

    # ── Arrays ───────────────────────────────────────────────────────────────────────────────────────────────

    def _prompts(
        self, windows: list[list[int]], limits: list[int], rules: Rules, keys: jax.Array, drawn: list[int]
    ) -> Prompts:
        """Returns right-aligned prompts, as many as there are keys; surplus ones end at once."""
        batch, width = len(keys), _bucket(max(map(len, windows)))
        tokens = np.zeros((batch, width), np.int32)
        seen, placed = np.full((2, batch), width - 1, np.int32)
        for row, window in enumerate(windows):
            tokens[row, width - len(window) :] = window
            seen[row] = placed[row] = width - len(window)
            if self._anew in window:
                seen[row] = width - 1 - window[::-1].index(self._anew)
                placed[row] = seen[row] if self._restart else placed[row]
        surplus = batch - len(windows)
        return Prompts(
            self._placed(tokens),
            Begins(self._placed(seen), self._placed(placed)),
            self._placed(np.array(limits + [1] * surplus, np.int32)),
            keys,
            self._placed(np.array(drawn + [0] * surplus, np.int32)),
            None,
            rules,
        )

    def _rules(self, stop: Sequence[int]) -> Rules:
        anew = None if self._anew is None else Anew(jnp.int32(self._anew), jnp.bool(self._restart))
        return Rules(jnp.array(stop, jnp.int32), anew)

    def _read(self, *arrays: jax.Array) -> tuple[np.ndarray, ...]:
        """Returns arrays of the devices on every host, including what other hosts hold."""
        return jax.device_get(self._gather(arrays))

    def _placed(self, rows: np.ndarray) -> jax.Array:
        place = batch_sharding(self._mesh)
        return jax.make_array_from_callback(rows.shape, place, lambda index: rows[index])


def _keys(seed: int, prompts: np.ndarray, samples: np.ndarray) -> jax.Array:
    """Returns a random key for each row, [B], from the seed and the numbers of prompt and sample."""
    fold = jax.vmap(jax.random.fold_in)
    key = jnp.broadcast_to(jax.random.key(seed), prompts.shape)
    return fold(fold(key, prompts.astype(np.uint32)), samples.astype(np.uint32))


def _bucket(count: int) -> int:
    return max(_LEAST, 1 << (count - 1).bit_length())
