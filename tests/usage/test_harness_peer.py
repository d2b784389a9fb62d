"""lm-evaluation-harness's own model for transformers gives the same answers for a run's converted weights."""

from typing import Any

import numpy as np
import pytest
from command_support import WORDS, make_text
from run_support import save_run
from support import tiny_config

from gpt1_jax.data.tokenizers.library_training import train_byte_bpe
from gpt1_jax.interop.conversion import convert

pytest.importorskip("accelerate", reason="accelerate is not installed, which the harness's model needs")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("lm_eval", reason="lm_eval is an extra; it is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]

CONTEXT = 24
END = "<|endoftext|>"
PAIRS = [(" ".join(WORDS[:n]), f" {WORDS[n]} {WORDS[-n]}") for n in range(1, 8)]
# The last has a context that the model cannot hold whole.
LONG = (make_text(3, 40).strip(), " old river")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The run as the harness sees it, and its weights in the harness's model for transformers."""
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    from gpt1_jax.lm_eval import register

    place = tmp_path_factory.mktemp("peers")
    tokenizer = train_byte_bpe(iter([" ".join(WORDS * 20) + "\n"]), 300)
    settings = {"model.norm": "pre", "model.context_length": CONTEXT, "data.vocab_size": 300}
    save_run(place / "run", tiny_config(**settings, **{"data.tokenizer": "byte_bpe"}), tokenizer, None)
    convert("gpt1_jax", "huggingface", str(place / "run"), str(place / "hub"))
    hub = str(place / "hub")
    # So that a text may name the end piece.
    pieces = transformers.AutoTokenizer.from_pretrained(hub, split_special_tokens=False)
    theirs = HFLM(pretrained=hub, tokenizer=pieces, device="cpu", dtype="float32", batch_size=4)
    return register()(run=str(place / "run")), theirs


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    return [Instance(request_type=kind, doc={}, arguments=given, idx=0) for given in arguments]


def behind_the_end(pairs: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Returns requests whose context begins with the end piece, which ours puts there by itself."""
    return [(END + context, *rest) for context, *rest in pairs]


def test_continuations_have_the_same_log_probabilities(models: tuple[Any, Any]) -> None:
    ours, theirs = models
    kind = "loglikelihood"
    found = ours.loglikelihood(requests(kind, *PAIRS, ("", "the old"), LONG), disable_tqdm=True)
    expected = theirs.loglikelihood(
        requests(kind, *behind_the_end(PAIRS), ("", "the old"), LONG), disable_tqdm=True
    )
    np.testing.assert_allclose([total for total, _ in found], [total for total, _ in expected], rtol=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_texts_of_any_length_have_the_same_log_probability(models: tuple[Any, Any]) -> None:
    texts = [(make_text(seed, words),) for seed, words in enumerate((1, 6, 40, 90))]
    found, expected = (
        model.loglikelihood_rolling(requests("loglikelihood_rolling", *texts), disable_tqdm=True)
        for model in models
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_greedy_continuations_are_the_same(models: tuple[Any, Any]) -> None:
    settings = {"until": ["q"], "max_gen_toks": 8, "do_sample": False}
    prompts = [(" ".join(WORDS[start : start + 2]), settings) for start in range(6)]
    found, expected = (
        model.generate_until(requests("generate_until", *prompts), disable_tqdm=True) for model in models
    )
    assert found == expected and len(set(found)) > 1
