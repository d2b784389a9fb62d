"""A set of sentences, a document each, as the 1 B Word Benchmark is: trained, measured, scored and continued apart."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from command_support import Runner, make_text

import gpt1_jax
from gpt1_jax.usage.trained import TrainedRun

pytestmark = pytest.mark.slow

APART = {"data.mask_documents": True, "data.restart_positions": True}


def sentence(split: str, number: int) -> str:
    return make_text(number + 10_000 * (split == "test"), 3 + number % 7).strip()


def prepare_lm1b(directory: Path) -> None:
    """Prepares a small `lm1b` by TFDS itself, without a network."""

    class Lm1b(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.1.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: object) -> dict[str, Any]:
            return {
                "train": self._generate_examples("train", 400),
                "test": self._generate_examples("test", 9),
            }

        def _generate_examples(self, split: str, count: int):
            for i in range(count):
                yield i, {"text": sentence(split, i)}

    Lm1b(data_dir=str(directory), file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def run(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    directory = tmp_path_factory.mktemp("sentences")
    prepare_lm1b(directory / "tfds")
    settings = APART | {"train.num_steps": 8, "train.eval_every": 8, "train.eval_batches": 0}
    settings |= {"model.context_length": 64, "data.source": "tfds:lm1b", "data.tfds_dir": directory / "tfds"}
    runner.run(directory / "run", **settings)
    return gpt1_jax.load(directory / "run")


def test_a_text_is_measured_as_the_sum_of_its_sentences_scored_alone(
    runner: Runner, run: TrainedRun, tmp_path: Path
) -> None:
    end, nats, sizes = run.tokenizer.end_id, 0.0, []
    assert end is not None
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(sentences := [sentence("test", i) for i in range(2, 5)]):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    for text in sentences:
        ids = run.encode(text)
        logits = run.logits([end, *ids])[-1].astype(np.float64)
        nats -= run.score(text)["total"] + logits[end] - np.log(np.exp(logits).sum())
        sizes.append(len(ids) + 1)
    ended = runner.call("evaluate", f"--workdir={run.run.directory}", f"--source=text:{tmp_path}/texts/*.txt")
    assert ended.code == 0, ended.stderr
    found = json.loads(ended.stdout)
    # One sentence is held out. The others fit into a window, which would cut them otherwise.
    assert found["tokens"] == sum(sizes) and sum(sizes) - min(sizes) <= 64
    assert found["loss"] == pytest.approx(nats / sum(sizes), rel=1e-5)


def test_what_stands_before_a_sentence_changes_nothing(run: TrainedRun) -> None:
    end = run.tokenizer.end_id
    assert end is not None
    first, second = (run.encode(sentence("train", number)) for number in (2, 4))
    together = run.logits([end, *first, end, *second])
    alone = run.logits([end, *second])
    np.testing.assert_allclose(together[len(first) + 1 :], alone, atol=1e-4)
    for before in ([], [end, *first], [*first]):
        found: Any = run.generate([*before, end, *second], max_new_tokens=5, temperature=0)
        (sample,) = found["samples"]
        assert sample["token_ids"] == _greedy(run, [end, *second], 5)


def _greedy(run: TrainedRun, ids: list[int], count: int) -> list[int]:
    new: list[int] = []
    for _ in range(count):
        new.append(int(run.logits([*ids, *new])[-1].argmax()))
    return new
