"""Both stages whole, on meshes of eight devices: they leave what one device leaves, dropout included.

Compared are runs of `pretrain` and `finetune`, by the files they leave and by what these write when loaded again.
"""

import contextlib
import io
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_support import make_text, read_metrics
from support import tiny_config
from training_support import to_host

import gpt1_jax
from gpt1_jax.training.finetuning import finetune
from gpt1_jax.training.pretraining import pretrain

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Of losses relative, of parameters absolute. Every mesh adds float32 numbers (2⁻²⁴ = 6e-8) in another order, and twenty
# updates carry that on: 5e-7 and 3e-7 were seen. Another dropout mask or a lost row changes the third digit.
TOLERANCE = 1e-5

STEPS = 20
SETTING: dict[str, Any] = {
    "model.unroll": 1,
    "data.vocab_size": 300,
    "train.num_steps": STEPS,
    "train.eval_every": STEPS,
    "train.eval_batches": 0,
    "train.checkpoint_every": STEPS,
    "optimizer.learning_rate": 3e-2,
    # With the usual ε, Adam turns rounding errors of gradients that are 0 by symmetry (those of the key biases) into
    # whole steps of either sign; a large ε leaves them small, so that parameters can be compared.
    "optimizer.epsilon": 1e-4,
}
EXAMPLES = {
    "train": range(29),
    "validation": range(29, 50),
    "test": range(50, 53),
}  # 8 a batch: 5, 5, 3 remain

Axes = tuple[int, int, int]
ONE_DEVICE: Axes = (1, 1, 1)
ALL_AXES: Axes = (2, 2, 2)
MESHES: list[Axes] = [(8, 1, 1), (1, 8, 1), ALL_AXES, (4, 1, 2)]


class Left:
    """What a run printed and left, and how its model continues texts."""

    def __init__(self, told: str, directory: Path) -> None:
        entries = read_metrics(directory)
        self.widths = told.count("compiled for")
        self.losses = [entry["loss"] for entry in entries if entry["kind"] == "train"]
        self.scores = json.loads((directory / "results.json").read_text())["validation"]
        self.predictions = {path.stem: path.read_text() for path in directory.glob("predictions/*")}
        run = gpt1_jax.load(str(directory))
        self.devices, self.parameters = run.mesh.size, to_host(run.params)
        self.written: list[Any] = [line for line in told.splitlines() if "  sample  " in line]
        if self.predictions:  # of pre-training each evaluation shows a sample
            found = run.generate(["the old", "river stone", "a"], max_new_tokens=8, temperature=0)
            self.written += [sample["token_ids"] for prompt in found for sample in prompt["samples"]]


Train = Callable[[str, Axes], Left]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """(stage, axes) → what that run left; each runs once, every fine-tuning from the pre-training on one device."""
    directory = tmp_path_factory.mktemp("meshes")
    for i in range(21):
        (directory / f"{i:02}.txt").write_text(make_text(i, 100))
    for kind, make in (("classification", make_review), ("choice", make_question)):
        (directory / kind).mkdir()
        for split, numbers in EXAMPLES.items():
            lines = [json.dumps(make(number)) + "\n" for number in numbers]
            (directory / kind / f"{split}.jsonl").write_text("".join(lines))

    @cache
    def run(stage: str, axes: Axes) -> Left:
        workdir, begun = (
            directory / f"{name}-{mesh}" for name, mesh in ((stage, axes), ("pretrain", ONE_DEVICE))
        )
        setting = (
            SETTING
            | {"data.cache_dir": str(directory / "cache")}
            | dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), axes, strict=True))
        )
        with contextlib.redirect_stdout(io.StringIO()) as told:
            if stage == "pretrain":
                config = tiny_config(**setting | {"data.source": f"text:{directory}/*.txt"})
                pretrain(config, str(workdir))
            else:
                run("pretrain", ONE_DEVICE)
                task = {
                    "finetune.task": "custom",
                    "finetune.kind": stage,
                    # Groups so few examples by length, so that there are two widths.
                    "finetune.batching": "pools",
                    "finetune.widths": 2,
                    "train.num_steps": 0,
                    "train.num_epochs": 5.0,
                }
                start = {"init_from": str(begun), "data.source": f"files:{directory / stage}"}
                finetune(tiny_config(**setting | task | start), str(workdir))
        return Left(told.getvalue(), workdir)

    return run


def make_review(number: int) -> dict[str, Any]:
    """Returns a text of one of two lengths, whose words all belong to its label."""
    label, words = (("good", ["light", "song"]), ("bad", ["stone", "under"]))[number % 2]
    return {"text": " ".join(random.Random(number).choices(words, k=(1, 8)[number // 2 % 2])), "label": label}


def make_question(number: int) -> dict[str, Any]:
    """Returns a question of one of two lengths; the choice that the context names is right."""
    draw, choices = random.Random(number), ["the", "a", "old"]
    label = draw.randrange(3)
    return {"context": " ".join([choices[label]] * (1, 8)[number % 2]), "choices": choices, "label": label}


def name(axes: Axes) -> str:
    """Returns a name such as 2x2x2."""
    return "x".join(map(str, axes))


def assert_same(one: Left, other: Left) -> None:
    """Asserts losses, scores and parameters up to rounding, and exactly what is counted, chosen or compiled."""
    assert len(one.losses) == STEPS
    np.testing.assert_allclose(other.losses, one.losses, rtol=TOLERANCE)
    assert other.scores == pytest.approx(one.scores, rel=TOLERANCE)
    assert other.parameters.keys() == one.parameters.keys()
    for name, expected in one.parameters.items():
        np.testing.assert_allclose(other.parameters[name], expected, atol=TOLERANCE, err_msg=name)
    assert (other.predictions, other.written, other.widths) == (one.predictions, one.written, one.widths)


@pytest.mark.parametrize(
    "axes", [pytest.param(x, marks=[pytest.mark.slow] * (x != ALL_AXES)) for x in MESHES], ids=name
)
def test_pretraining_leaves_what_one_device_leaves(train: Train, axes: Axes) -> None:
    one, other = train("pretrain", ONE_DEVICE), train("pretrain", axes)
    assert (one.devices, other.devices) == (1, 8)
    assert one.losses[-1] < one.losses[0] - 0.5  # it learns
    assert_same(one, other)


@pytest.mark.parametrize(
    "axes", [pytest.param(x, marks=[pytest.mark.slow] * (x != ALL_AXES)) for x in MESHES], ids=name
)
@pytest.mark.parametrize("kind", ["classification", pytest.param("choice", marks=pytest.mark.slow)])
def test_finetuning_leaves_what_one_device_leaves(train: Train, kind: str, axes: Axes) -> None:
    """Five epochs of ragged batches, those of texts in two widths; each example is predicted once."""
    one, other = train(kind, ONE_DEVICE), train(kind, axes)
    assert (one.devices, other.devices) == (1, 8)
    assert one.widths == (2 if kind == "classification" else 1)
    assert one.scores["examples"] == len(EXAMPLES["validation"])
    for split in ("validation", "test"):
        numbers, labels = zip(
            *(line.split("\t") for line in one.predictions[split].splitlines()[1:]), strict=True
        )
        assert [*map(int, numbers)] == [*range(len(EXAMPLES[split]))]
        assert len(set(labels)) > 1 or split == "test"
    assert_same(one, other)
