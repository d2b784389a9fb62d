"""Continuing sequences: token by token what the whole model says, what transformers writes, and all settings."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen as nn
from support import tiny_model, use_mesh
from torch_support import torch_names

from gpt1_jax.data.documents import Documents
from gpt1_jax.errors import UserError
from gpt1_jax.model.decoding import decode, generator
from gpt1_jax.model.decoding.generator import Generator
from gpt1_jax.model.decoding.samples import Sample
from gpt1_jax.model.decoding.settings import Generation
from gpt1_jax.model.lstm import LSTM
from gpt1_jax.model.transformer import Transformer

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCAB, CONTEXT = 101, 96
CONFIG = tiny_model(context_length=CONTEXT, d_ff=128)  # transformers has 4 times the width, always


@cache
def random_params() -> Any:
    """So large that the next token is far from certain and far from even."""
    generator = np.random.default_rng(0)
    with use_mesh():
        shapes = jax.eval_shape(
            lambda: nn.unbox(
                Transformer(CONFIG, VOCAB).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
            )
        )

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        center = 1.0 if path[-1].key.endswith("scale") else 0.0
        return generator.normal(center, 0.2, leaf.shape).astype(np.float32)

    return jax.tree.map_with_path(fill, shapes)


def random_prompts(count: int, lengths: tuple[int, ...] = (1, 4, 9, 17, 30)) -> list[list[int]]:
    generator = np.random.default_rng(1)
    return [generator.integers(0, VOCAB, generator.choice(lengths)).tolist() for _ in range(count)]


def generate(
    prompts: list[list[int]], mesh: tuple[int, int, int] = (1, 1, 1), **settings: Any
) -> list[list[Sample]]:
    with use_mesh(*mesh) as placed:
        return Generator(Transformer(CONFIG, VOCAB), placed, random_params())(prompts, Generation(**settings))


def next_logits(text: list[int]) -> np.ndarray:
    """The logits after a text of at most CONTEXT tokens, by the model without a cache."""
    tokens = np.zeros((1, CONTEXT), np.int32)
    tokens[0, : len(text)] = text
    with use_mesh():
        states = _states(random_params(), tokens)
    return np.array(states[0, len(text) - 1] @ random_params()["tokens"][:VOCAB].T)


_states = jax.jit(lambda params, tokens: Transformer(CONFIG, VOCAB).apply({"params": params}, tokens))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@cache
def reference() -> Any:
    """The same model by transformers."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
    model = transformers.OpenAIGPTLMHeadModel(
        transformers.OpenAIGPTConfig(
            vocab_size=VOCAB,
            n_positions=CONTEXT,
            n_embd=CONFIG.d_model,
            n_layer=CONFIG.num_layers,
            n_head=CONFIG.num_heads,
        )
    ).eval()
    arrays = torch_names(random_params(), VOCAB)
    model.load_state_dict({name: torch.from_numpy(x) for name, x in arrays.items()}, strict=False)
    return model


def reference_texts(prompts: list[list[int]], **settings: Any) -> list[list[int]]:
    """What transformers writes; prompts of one length at once, since it knows no others in a batch here."""
    import torch

    found: dict[int, list[int]] = {}
    for length in {len(prompt) for prompt in prompts}:
        places = [place for place, prompt in enumerate(prompts) if len(prompt) == length]
        ids = torch.tensor([prompts[place] for place in places])
        out = reference().generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **settings
        )
        found |= zip(places, out[:, length:].tolist(), strict=True)
    return [found[place] for place in range(len(prompts))]


# ── The cache ────────────────────────────────────────────────────────────────────────────────────────────────


def test_prompts_of_other_lengths_are_each_continued_as_if_alone() -> None:
    prompts = random_prompts(7)
    together = generate(prompts, max_new_tokens=40, temperature=0)
    for prompt, (sample,) in zip(prompts, together, strict=True):
        text = list(prompt)
        for token, chance in zip(sample.tokens, sample.log_probabilities, strict=True):
            logits = next_logits(text)
            assert token == logits.argmax()
            assert chance == pytest.approx(log_softmax(logits)[token], abs=2e-4)
            text.append(token)
        assert len(sample.tokens) == 40
        assert sample.reason == "length"


@pytest.mark.slow
def test_a_hundred_greedy_continuations_are_those_of_transformers() -> None:
    prompts = random_prompts(100)
    ours = [sample.tokens for (sample,) in generate(prompts, max_new_tokens=64, temperature=0)]
    assert ours == reference_texts(prompts, max_new_tokens=64)


@pytest.mark.parametrize(
    "mesh",
    [(2, 2, 2), *(pytest.param(x, marks=pytest.mark.slow) for x in ((8, 1, 1), (1, 8, 1), (4, 1, 2)))],
    ids=str,
)
def test_every_mesh_writes_the_same(mesh: tuple[int, int, int]) -> None:
    prompts = random_prompts(3)
    for settings in ({"temperature": 0}, {"temperature": 0.9, "top_k": 20}, {"num_beams": 3}):
        alone, spread = (generate(prompts, m, max_new_tokens=12, **settings) for m in ((1, 1, 1), mesh))
        assert [s.tokens for row in alone for s in row] == [s.tokens for row in spread for s in row]


def test_a_new_prompt_or_setting_compiles_nothing_new() -> None:
    with use_mesh() as mesh:
        write = Generator(Transformer(CONFIG, VOCAB), mesh, random_params())
        write([[1] * 17], Generation(max_new_tokens=20, top_k=5))
        compiled = decode.enter._cache_size(), decode.proceed._cache_size()  # pyright: ignore
        write([[2] * 31], Generation(max_new_tokens=30, temperature=0.3, top_k=9, seed=5))
        assert compiled == (decode.enter._cache_size(), decode.proceed._cache_size())  # pyright: ignore


# ── Sampling ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_seed_reproduces_a_prompts_samples_whatever_stands_beside_it() -> None:
    prompts = random_prompts(3)
    first = generate(prompts, max_new_tokens=20, num_samples=2, seed=7)
    assert generate(prompts, max_new_tokens=20, num_samples=2, seed=7) == first
    assert generate(prompts[:1], max_new_tokens=20, num_samples=2, seed=7)[0][0].tokens == first[0][0].tokens
    assert generate(prompts, max_new_tokens=20, num_samples=2, seed=8)[0][0].tokens != first[0][0].tokens
    assert first[0][0].tokens != first[0][1].tokens


@pytest.mark.slow
def test_a_prompt_of_a_longer_list_draws_by_its_place_there() -> None:
    prompts = random_prompts(5)
    whole = generate(prompts, max_new_tokens=8, num_samples=2)
    with use_mesh() as placed:
        write = Generator(Transformer(CONFIG, VOCAB), placed, random_params())
        for place, prompt in enumerate(prompts):
            (alone,) = write([prompt], Generation(max_new_tokens=8, num_samples=2), first=place)
            assert [sample.tokens for sample in alone] == [sample.tokens for sample in whole[place]]


@pytest.mark.slow
def test_more_rows_than_there_is_memory_for_are_continued_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = random_prompts(5)
    shown: list[list[list[int]]] = []
    with use_mesh() as placed:
        write = Generator(Transformer(CONFIG, VOCAB), placed, random_params())
        drawn, found = Generation(max_new_tokens=6, num_samples=3), Generation(max_new_tokens=6, num_beams=2)
        at_once = [write(prompts, settings) for settings in (drawn, found)]
        monkeypatch.setattr(generator, "_MEMORY", 120_000)
        assert write._rows_at_once(prompts, drawn) == 4
        in_turn = [write(prompts, settings) for settings in (drawn, found)]
        write(prompts, drawn, lambda rows: shown.append(rows))
    for one, other in zip(at_once, in_turn, strict=True):
        assert [s.tokens for row in one for s in row] == [s.tokens for row in other for s in row]
    assert all(len(rows) == 15 for rows in shown)
    assert shown[-1] == [sample.tokens for samples in in_turn[0] for sample in samples]


def test_first_tokens_have_the_models_probabilities() -> None:
    (samples,) = generate([[5, 6, 7]], max_new_tokens=1, num_samples=1000)
    counts = np.bincount([sample.tokens[0] for sample in samples], minlength=VOCAB)
    expected = np.exp(log_softmax(next_logits([5, 6, 7]))) * 1000
    common = expected > 5
    statistic = ((counts - expected) ** 2 / expected)[common].sum()
    assert scipy.stats.chi2(common.sum() - 1).sf(statistic) > 1e-3


def test_a_repetition_penalty_is_that_of_transformers() -> None:
    prompts = random_prompts(5)
    ours = [s.tokens for (s,) in generate(prompts, max_new_tokens=30, temperature=0, repetition_penalty=1.5)]
    assert ours == reference_texts(prompts, max_new_tokens=30, repetition_penalty=1.5)


def test_nothing_but_the_tokenizers_pieces_is_written() -> None:
    """The table has rows for the specials of fine-tuning and for padding, here made far more probable."""
    params = dict(random_params())
    params["tokens"] = np.concatenate([params["tokens"][:VOCAB], 50 * np.ones_like(params["tokens"][VOCAB:])])
    with use_mesh() as mesh:
        write = Generator(Transformer(CONFIG, VOCAB), mesh, params)
        (samples,) = write([[1, 2]], Generation(max_new_tokens=30, num_samples=20, temperature=5.0))
    assert max(max(sample.tokens) for sample in samples) < VOCAB


# ── Ends ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stop_ends_its_sample_alone() -> None:
    prompts = random_prompts(20)
    free = generate(prompts, max_new_tokens=30, seed=3)
    stops = (4, 50)
    for (sample,), (whole,) in zip(
        generate(prompts, max_new_tokens=30, seed=3, stop=stops), free, strict=True
    ):
        places = [place for place, token in enumerate(whole.tokens) if token in stops]
        expected = whole.tokens[: places[0] + 1] if places else whole.tokens
        assert sample.tokens == expected
        assert sample.reason == ("stop" if places else "length")
        assert len(sample.log_probabilities) == len(sample.tokens)


def test_a_sample_that_is_done_leaves_its_row_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, settings = random_prompts(20), {"max_new_tokens": 30, "seed": 3, "stop": (4, 50, 60, 70, 80)}
    expected = [sample for (sample,) in generate(prompts, **settings)]
    monkeypatch.setattr(generator, "_ROWS_ON_CPUS", 4)
    steps, proceed = [], decode.proceed

    def counted(model: Any, weights: Any, state: Any, *rest: Any) -> Any:
        before = int(state.slot)
        state = proceed(model, weights, state, *rest)
        steps.append(int(state.slot) - before)
        return state

    monkeypatch.setattr(generator, "proceed", counted)
    found = [sample for (sample,) in generate(prompts, **settings)]
    assert [sample.tokens for sample in found] == [sample.tokens for sample in expected]
    # Reading a prompt gives the first token of each. Rows stay full until the last samples.
    needed = sum(len(sample.tokens) - 1 for sample in found) / 4
    assert needed <= sum(steps) < needed + 30 < 30 * 20 / 4


def test_prompts_are_read_together_if_they_are_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in groups, the shorter ones are not as wide as the longest."""
    prompts = [[1 + number] * length for number, length in enumerate((30, 3, 28, 5, 18, 40, 9, 20))]
    read, enter = [], decode.enter

    def noted(model: Any, weights: Any, state: Any, given: Any, *rest: Any) -> Any:
        read.append(given.tokens.shape)
        return enter(model, weights, state, given, *rest)

    monkeypatch.setattr(generator, "enter", noted)
    together = generate(prompts, max_new_tokens=8)
    assert read == [(8, 64)]
    read.clear()
    monkeypatch.setattr(generator, "_TOKENS_ON_CPUS", 8 * 64 - 1)
    in_groups = generate(prompts, max_new_tokens=8)
    assert read == [(1, 64), *[(1, 32)] * 4, *[(1, 16)] * 3]
    assert [sample.tokens for (sample,) in in_groups] == [sample.tokens for (sample,) in together]


def test_two_halves_of_many_prompts_give_what_all_of_them_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "_ROWS_ON_CPUS", 4)
    prompts, settings = (
        random_prompts(9),
        {"max_new_tokens": 12, "seed": 3, "stop": (4, 50), "num_samples": 2},
    )
    halves, in_halves = [], generator.in_halves

    def counted(*given: Any) -> Any:
        halves.append(given)
        return in_halves(*given)

    monkeypatch.setattr(generator, "in_halves", counted)
    found = generate(prompts, **settings)
    assert (len(halves), found) == (1, generate(prompts, **settings))
    monkeypatch.setattr(generator, "one_cpu", lambda mesh: False)
    together = generate(prompts, **settings)
    assert [[s.tokens for s in samples] for samples in found] == [[s.tokens for s in row] for row in together]
    assert len(halves) == 2


def test_the_context_ends_a_sample_where_nothing_else_does() -> None:
    short, long = generate([[1] * 5, [2] * 90], max_new_tokens=200, temperature=0)
    assert [len(short[0].tokens), len(long[0].tokens)] == [CONTEXT - 5, CONTEXT - 90]
    assert short[0].reason == long[0].reason == "context"


def test_a_window_slides_by_half_a_context() -> None:
    prompts = [[3] * 5, [9] * 80, [7] * 200]
    found = generate(prompts, max_new_tokens=150, temperature=0, beyond_context="slide")
    for prompt, (sample,) in zip(prompts, found, strict=True):
        assert (len(sample.tokens), sample.reason) == (150, "length")
        text, start = list(prompt), 0
        for token in sample.tokens:
            if len(text) - start >= CONTEXT:
                start = len(text) - CONTEXT // 2
            assert token == next_logits(text[start:]).argmax()
            text.append(token)


def test_a_sliding_sample_repeats_by_its_seed_and_keeps_drawing_anew() -> None:
    settings: dict[str, Any] = {"max_new_tokens": 200, "beyond_context": "slide", "seed": 1}
    (first,) = generate([[3] * 5], **settings)[0]
    assert generate([[3] * 5], **settings)[0][0] == first
    assert first.tokens[:91] != first.tokens[91:182]
    assert generate([[3] * 5], max_new_tokens=50, seed=1)[0][0].tokens == first.tokens[:50]


def test_growing_rows_are_shown() -> None:
    shown: list[list[list[int]]] = []
    with use_mesh() as mesh:
        write = Generator(Transformer(CONFIG, VOCAB), mesh, random_params())
        settings = Generation(max_new_tokens=110, beyond_context="slide", num_samples=2)
        (samples,) = write([[1, 2, 3]], settings, lambda rows: shown.append(rows), every=1)
    assert [len(rows[0]) for rows in shown] == list(range(1, 111))
    for rows in shown:
        assert rows == [sample.tokens[: len(rows[0])] for sample in samples]


# ── Beams ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("width", "penalty", "stop"), [(2, 1.0, None), (4, 0.0, None), (5, 2.0, 17), (3, 0.6, 40)], ids=str
)
def test_beams_and_their_scores_are_those_of_transformers(
    width: int, penalty: float, stop: int | None
) -> None:
    import torch

    prompts = random_prompts(20, lengths=(2, 11))
    found = generate(
        prompts,
        max_new_tokens=20,
        num_beams=width,
        num_samples=width,
        length_penalty=penalty,
        stop=() if stop is None else (stop,),
    )
    ties = 0
    for length in (2, 11):
        group = [(p, samples) for p, samples in zip(prompts, found, strict=True) if len(p) == length]
        ids = torch.tensor([prompt for prompt, _ in group])
        out = reference().generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=width,
            num_return_sequences=width,
            length_penalty=penalty,
            max_new_tokens=20,
            eos_token_id=stop,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        ours = [sample for _, samples in group for sample in samples]
        scores = out.sequences_scores.tolist()
        for place, (sample, theirs) in enumerate(zip(ours, out.sequences[:, length:].tolist(), strict=True)):
            divisor = len(sample.tokens) ** penalty
            assert sample.score * divisor == pytest.approx(scores[place] * divisor, abs=1e-3)
            # Of equal scores either may come first, and the last may equal one that is left out.
            tied = sum(abs(score - sample.score) * divisor < 1e-3 for score in scores) > 1
            assert tied or place % width == width - 1 or sample.tokens == theirs[: len(sample.tokens)]
            ties += sample.tokens != theirs[: len(sample.tokens)]
            assert sample.reason == ("stop" if sample.tokens[-1] == stop else "length")
            score = sum(sample.log_probabilities) / len(sample.tokens) ** penalty
            assert score == pytest.approx(sample.score, abs=1e-4)
    assert ties < 0.05 * width * len(prompts)


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 .* set 1 to"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"num_beams": 0}, "num_beams=0"),
        ({"num_beams": 102}, "1 to 101, the number of pieces"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"seed": -1}, "seed=-1"),
        ({"stop": (101,)}, "ids from 0 to 100"),
        ({"beyond_context": "wrap"}, "one of stop, slide, refuse"),
        ({"num_beams": 2, "top_k": 4}, "top_k=4 does not go with num_beams=2"),
        ({"num_beams": 2, "num_samples": 3}, "num_samples=3 is more than num_beams=2"),
        ({"num_beams": 2, "beyond_context": "slide"}, "share one window"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        generate([[1, 2]], **settings)


@pytest.mark.parametrize(
    ("prompt", "settings", "told"),
    [
        ([], {}, "has no tokens"),
        ([101], {}, "outside the 101 pieces"),
        ([1] * 96, {}, "prompt of 96 tokens leaves no room in the context: a new one does not fit into 96"),
        ([1] * 90, {"beyond_context": "refuse", "max_new_tokens": 7}, "7 new ones do not fit into 96"),
    ],
    ids=["empty", "unknown id", "full", "no room"],
)
def test_a_prompt_that_does_not_fit_is_told(prompt: list[int], settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        generate([prompt], **settings)


def test_more_beams_than_there_is_memory_for_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "memory_at_hand", lambda mesh: 300_000)
    with pytest.raises(
        UserError, match=r"num_beams=20 needs at least 0.00\d+ GB per device, but there are 0.0003 GB"
    ):
        generate([[1, 2]], num_beams=20, max_new_tokens=4)
    assert len(generate([[1, 2]], num_beams=2, max_new_tokens=4)[0][0].tokens) == 4


def test_an_lstm_is_told() -> None:
    with use_mesh() as mesh, pytest.raises(UserError, match="lstm cannot continue text"):
        Generator(LSTM(tiny_model(kind="lstm", num_layers=1), VOCAB), mesh, {})


# ── Documents that are kept apart ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("beams", "restart"), [(1, False), pytest.param(3, True, marks=pytest.mark.slow)])
def test_what_follows_an_end_piece_is_continued_as_if_it_stood_alone(beams: int, restart: bool) -> None:
    prompts, settings = (
        random_prompts(6),
        Generation(max_new_tokens=24, num_beams=beams, temperature=beams % 2),
    )
    (first, *_), *_ = generate([[5, 6]], max_new_tokens=24, num_beams=beams, temperature=beams % 2)
    # A piece that is written, and one more prompt that has it inside.
    anew = max(first.tokens[:-4], key=first.tokens.count)
    prompts += [[5, 6], [1, 2, anew, 3, anew, 4, 5]]
    with use_mesh() as mesh:
        model = Transformer(CONFIG, VOCAB)
        found = Generator(model, mesh, random_params(), anew, restart)(prompts, settings)
        inside = 0
        for prompt, (sample, *_) in zip(prompts, found, strict=True):
            text = np.zeros((1, CONTEXT), np.int32)
            text[0, : len(prompt) + len(sample.tokens)] = [*prompt, *sample.tokens]
            groups, places = Documents(anew, apart=True, restart=restart).read(text)
            states = _apart_states(random_params(), text, groups, places)
            logits = np.array(states[0] @ random_params()["tokens"][:VOCAB].T)
            for place, (token, chance) in enumerate(
                zip(sample.tokens, sample.log_probabilities, strict=True), start=len(prompt) - 1
            ):
                assert chance == pytest.approx(log_softmax(logits[place])[token], abs=1e-4)
            inside += anew in sample.tokens[:-1]
    assert inside


_apart_states = jax.jit(
    lambda params, tokens, groups, places: Transformer(CONFIG, VOCAB).apply(
        {"params": params}, tokens, None, None, groups, places
    )
)
