"""Runs that commit 470f344 made: they open, answer, and go on as they did there.

`old_runs/470f344.tar.xz` holds a pre-trained run of six steps, a fine-tuned one of three epochs, one that was imported
and so has no moments, and the texts they learned from. `old_runs/470f344.json` is what that commit's code gave of them,
compiled without optimizations.
"""

import dataclasses
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from command_support import logged

import gpt1_jax
from gpt1_jax.run import Run
from gpt1_jax.training.finetuning import finetune
from gpt1_jax.training.pretraining import pretrain
from gpt1_jax.usage import measuring

OLD_RUNS = Path(__file__).parents[1] / "old_runs"
GIVEN: dict[str, Any] = json.loads((OLD_RUNS / "470f344.json").read_text())
RUNS = ("pretrained", "finetuned", "imported")
TEXTS = ("song again the old", "under again", "the", "light light", "river again")

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("old")
    with tarfile.open(OLD_RUNS / "470f344.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    return directory


@pytest.fixture(autouse=True)
def _place(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The directory where the runs' texts are found, which their configs name by relative paths."""
    monkeypatch.chdir(unpacked)
    yield


def machine() -> dict[str, Any]:
    """What the last bits of a float depend on: the compiler, and the instructions it may use."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    words = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "jax": jax.__version__,
        "cpu": sorted(word for word in words if word.startswith(("avx", "fma", "amx"))),
    }


def assert_given(found: Any, name: str, what: str) -> None:
    """Compares with what the old code gave: bit by bit on a machine like its, else floats within 0.01 %."""
    given = GIVEN[name][what]
    assert found == (given if machine() == GIVEN["machine"] else approximately(given))


def assert_nearly_given(found: Any, name: str, what: str) -> None:
    """Compares as `assert_given` does, but for a rounding of sums: that commit's code put texts together otherwise."""
    here = machine() == GIVEN["machine"]
    assert found == approximately(GIVEN[name][what], 1e-6 if here else 1e-4)


def approximately(value: Any, rel: float = 1e-4) -> Any:
    if isinstance(value, dict):
        return {key: approximately(member, rel) for key, member in value.items()}
    if isinstance(value, list):
        return [approximately(member, rel) for member in value]
    return pytest.approx(value, rel=rel) if isinstance(value, float) else value


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_encodes_and_continues_a_text_as_it_did(name: str) -> None:
    run = gpt1_jax.load(name)
    assert run.step == GIVEN[name]["step"]
    assert_given(run.encode("the old river carries a song"), name, "ids")
    logits = run.logits(run.encode("the old river"))
    assert_nearly_given([float(value) for value in logits[-1, :8]], name, "logits")
    if name == "imported":  # from the pre-trained one, so that it would only say the same again
        return
    greedy = run.generate("the old river", temperature=0, max_new_tokens=10)
    assert_given([sample["token_ids"] for sample in greedy["samples"]], name, "greedy")
    drawn = run.generate("the old river", seed=3, top_k=40, max_new_tokens=8, num_samples=2)
    assert_given([sample["token_ids"] for sample in drawn["samples"]], name, "drawn")


def test_an_old_finetuned_run_labels_as_it_did() -> None:
    predictions = gpt1_jax.load("finetuned").predict([{"text": text} for text in TEXTS])
    assert_nearly_given(predictions, "finetuned", "predictions")


@pytest.mark.parametrize(
    ("name", "source"), [("pretrained", None), ("finetuned", None), ("imported", "text:texts/*.txt")]
)
def test_an_old_run_is_measured_as_it_was(name: str, source: str | None) -> None:
    """On a task bit by bit; of a text that commit's batches were those of the training."""
    same = assert_given if name == "finetuned" else assert_nearly_given
    same(measuring.evaluate(name, source, None), name, "evaluation")


@pytest.mark.parametrize(
    ("name", "train", "longer"),
    [
        ("pretrained", pretrain, {"num_steps": 12}),
        ("finetuned", finetune, {"num_steps": 0, "num_epochs": 4.0}),
    ],
)
def test_an_old_run_goes_on_with_the_losses_it_had(name: str, train: Any, longer: dict[str, Any]) -> None:
    """The last bits may differ: optax's schedules round a learning rate differently from that commit's formula."""
    shutil.copytree(name, f"{name}_again")
    config = Run(f"{name}_again").config()
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **longer))
    train(config, f"{name}_again")
    entries = [entry for entry in logged(Path(f"{name}_again")) if entry["step"] > GIVEN[name]["step"]]
    assert entries == approximately(GIVEN[name]["went_on"])
    assert measuring.evaluate(f"{name}_again", None, None) == approximately(GIVEN[name]["end"])
