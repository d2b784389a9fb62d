"""Training from Python: every kind, in every form of examples, the same way as the command, and one sentence a slip."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_support import ROOT, logged, parameters
from faults.commands import plain_environment
from run_support import make_run

import gpt1_jax
from gpt1_jax import signals
from gpt1_jax.config import DataConfig, FinetuneConfig
from gpt1_jax.disk.locks import lock
from gpt1_jax.tasks.examples import parse_example
from gpt1_jax.tasks.reading import read_task
from gpt1_jax.tasks.task import Task
from gpt1_jax.training.record import Record
from gpt1_jax.usage import evaluating
from gpt1_jax.usage.given import read_labeled, unlabeled_records
from gpt1_jax.usage.measuring import evaluate
from gpt1_jax.usage.trained import TrainedRun

pytestmark = pytest.mark.usefixtures("quick_compilation")

REVIEWS = [(f"the old song {'again' if n % 2 else 'under'}", "good" if n % 2 else "bad") for n in range(16)]
TAGGED = [(["the", "old", "river"], ["O", "O", "B-RIVER"]), (["a", "song"], ["O", "O"])] * 8
# By kind: examples as tuples, a new one, and the names of what the tuples hold.
EXAMPLES: dict[str, tuple[list[Any], Any, tuple[str, ...]]] = {
    "classification": (REVIEWS, REVIEWS[0][0], ("text", "label")),
    "entailment": (
        [("the old", text, label) for text, label in REVIEWS],
        ("the old", "a river"),
        ("premise", "hypothesis", "label"),
    ),
    "similarity": (
        [(text, "a river", n / 4) for n, (text, _) in enumerate(REVIEWS)],
        ("the", "a"),
        ("sentence1", "sentence2", "label"),
    ),
    "choice": (
        [("the old", ["song", "river"], n % 2) for n in range(16)],
        ("the old", ["song", "river"]),
        ("context", "choices", "label"),
    ),
    "tagging": (TAGGED, ["the", "song"], ("words", "tags")),
    "span": (
        [("who", "the old song", ["song"])] * 16,
        ("who", "the river"),
        ("question", "context", "answers"),
    ),
    "completion": ([("the old", "song")] * 16, "the old", ("prompt", "completion")),
}
SHORT = {"epochs": 1, "train": {"batch_size": 8}, "mesh": {"data": 1}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def short(base: Path) -> dict[str, Any]:
    return {**SHORT, "data": {"cache_dir": base.parent / "cache"}}


@pytest.fixture(scope="module")
def reviews(base: Path, short: dict[str, Any]) -> TrainedRun:
    return gpt1_jax.finetune(base, REVIEWS, kind="classification", workdir=base.parent / "reviews", **short)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C does here what it does in Python, even where this process was told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and signals.requested() is None
    signal.signal(signal.SIGINT, before)


def refused(*arguments: Any, **more: Any) -> str:
    """The one sentence that fine-tuning is refused with, in Python's words; nothing is left of it."""
    place = Path(more["workdir"])
    before = place.exists()
    with pytest.raises(gpt1_jax.UserError) as error:
        gpt1_jax.finetune(*arguments, **more)
    told = str(error.value)
    assert place.exists() == before
    assert "--" not in told and "data.source" not in told and "\n" not in told, told
    return told


# ── What is trained ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_kind_learns_from_tuples_what_it_learns_from_a_file(
    base: Path, tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is read as for the command; no training is needed to see what is learned."""
    labeled, _, fields = EXAMPLES[kind]
    learned: list[Any] = []

    def look(config: Any, workdir: str) -> None:
        learned.append(read_task(config.finetune, config.data))
        raise gpt1_jax.UserError("seen")

    monkeypatch.setattr("gpt1_jax.training.finetuning.finetune", look)
    with pytest.raises(gpt1_jax.UserError, match="seen"):
        gpt1_jax.finetune(base, labeled, kind=kind, workdir=tmp_path / "run", validation=labeled[:4])
    file = tmp_path / "file"
    file.mkdir()
    for split, part in (("train", labeled), ("validation", labeled[:4])):
        lines = [json.dumps(dict(zip(fields, example, strict=True))) + "\n" for example in part]
        (file / f"{split}.jsonl").write_text("".join(lines))
    settings = FinetuneConfig("custom", kind=kind)
    assert learned == [read_task(settings, DataConfig(source=f"files:{file}"))]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_new_examples_of_every_kind_come_as_texts_tuples_or_dictionaries(kind: Any) -> None:
    _, new, fields = EXAMPLES[kind]
    names = fields[:-1]
    named = dict(zip(names, (new,) if len(names) == 1 else new, strict=True))
    found, same = unlabeled_records(kind, [new, named], "examples")
    task = Task("custom", kind, ("accuracy",), choices=2)
    assert parse_example(task, found, {}) == parse_example(task, same, {})
    with pytest.raises(gpt1_jax.UserError, match=r"^examples\[1\] is 5, expected"):
        unlabeled_records(kind, [new, 5], "examples")


@pytest.mark.slow
def test_it_goes_the_way_of_the_command_to_the_last_bit(
    base: Path, short: dict[str, Any], reviews: TrainedRun, tmp_path: Path
) -> None:
    directory, again = Path(reviews.run.directory), tmp_path / "again"
    values = {
        "init_from": base,
        "finetune.kind": "classification",
        "data.source": f"files:{directory}/examples/train.jsonl",
        "data.cache_dir": short["data"]["cache_dir"],
        "train.num_epochs": 1,
        "train.batch_size": 8,
        "mesh.data": 1,
    }
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    done = subprocess.run(
        [sys.executable, "-m", "gpt1_jax.main", "--config=finetune:custom", f"--workdir={again}", *flags],
        cwd=ROOT, env=plain_environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("config.json", "task.json", "results.json", "history.json", "predictions/validation.tsv"):
        assert (again / name).read_bytes() == (directory / name).read_bytes(), name
    assert logged(again) == logged(directory)
    ours, theirs = parameters(directory, reviews.step), parameters(again, reviews.step)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize("form", ["dictionaries", "columns", "frame"])
def test_examples_come_in_several_forms(
    reviews: TrainedRun, form: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of them is the same; no training is needed to see that."""
    learned: list[bytes] = []

    def look(config: Any, workdir: str) -> None:
        learned.append(Path(config.data.source.removeprefix("files:")).read_bytes())
        raise gpt1_jax.UserError("seen")

    monkeypatch.setattr("gpt1_jax.training.finetuning.finetune", look)
    given: Any = [{"text": text, "label": label, "number": 3} for text, label in REVIEWS]
    columns = None
    if form == "columns":
        given = [{"review": text, "stars": label} for text, label in REVIEWS]
        columns = {"text": "review", "label": "stars"}
    elif form == "frame":
        pandas = pytest.importorskip("pandas", reason="pandas makes frames; it is not installed")
        given = pandas.DataFrame(given)
    with pytest.raises(gpt1_jax.UserError, match="seen"):
        gpt1_jax.finetune(base, given, kind="classification", workdir=tmp_path / "run", columns=columns)
    kept = (Path(reviews.run.directory) / "examples" / "train.jsonl").read_bytes()
    assert learned == [
        kept if columns is None else kept.replace(b'"text"', b'"review"').replace(b'"label"', b'"stars"')
    ]


def test_the_columns_that_are_named_count_unless_an_example_has_only_the_kinds_own() -> None:
    stars, own = {"text": "a", "label": "b", "stars": 3}, {"text": "a", "label": "b"}
    both = [
        read_labeled("classification", [given], "examples", {"label": "stars"})
        for given in (stars, own, ("a", "b"))
    ]
    assert both[0] == ([{"text": "a", "stars": 3}], {"label": "stars"})
    assert both[1] == both[2] == ([own], {})


def test_a_run_that_is_moved_with_its_examples_is_evaluated_on_them(
    reviews: TrainedRun, tmp_path: Path
) -> None:
    found = reviews.evaluate()
    old, new = Path(reviews.run.directory), tmp_path / "moved"
    old.rename(new)
    try:
        assert gpt1_jax.load(new).evaluate() == found
    finally:
        new.rename(old)


def test_a_pretrained_run_is_measured_on_texts_as_on_a_file(base: Path, tmp_path: Path) -> None:
    run = gpt1_jax.load(base)
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": t}) + "\n" for t in ("the old song", "a river"))
    )
    expected = evaluate(str(base), f"text:{tmp_path}/a.jsonl", None)
    found = run.evaluate(["the old song", "a river"])
    assert found.keys() == expected.keys() and found["bytes"] == expected["bytes"]
    assert found["tokens"] in (expected["tokens"], expected["tokens"] + 1)
    assert run.evaluate("the old song") == run.evaluate(["the old song"])


def test_few_texts_are_no_batch_of_the_training(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's batch of 64 windows would take a minute of a CPU, for one."""
    run, rows, make = gpt1_jax.load(base), [], evaluating.evaluation_batches
    run.config = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, batch_size=512))

    def note(*arguments: Any) -> Any:
        rows.append(arguments[-1])
        return make(*arguments)

    monkeypatch.setattr(evaluating, "evaluation_batches", note)
    run.evaluate("the old song")
    assert rows == [run.mesh.shape["data"] * run.mesh.shape["fsdp"]]


# ── What is interrupted and repeated ─────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_training_is_saved_and_resumed_by_the_same_call(
    base: Path, short: dict[str, Any], reviews: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir, read = tmp_path / "run", Record.read

    def interrupt(self: Record, step: int, metrics: Any) -> None:
        read(self, step, metrics)
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Record, "read", interrupt)
        with pytest.raises(KeyboardInterrupt, match=r"saved in .*; make the same call again") as stop:
            gpt1_jax.finetune(base, REVIEWS, kind="classification", workdir=workdir, **short)
    # The error is still held here, as a notebook holds its last one, and the run is free nevertheless.
    run = gpt1_jax.finetune(base, REVIEWS, kind="classification", workdir=workdir, **short)
    assert stop.value and run.step == reviews.step
    assert run.run.results() == reviews.run.results()


@pytest.mark.usefixtures("interruptible")
def test_before_there_is_anything_to_save_an_interruption_leaves_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gpt1_jax.training.finetuning.finetune", lambda *_: signal.raise_signal(signal.SIGINT)
    )
    with pytest.raises(KeyboardInterrupt):
        gpt1_jax.finetune(base, REVIEWS, kind="classification", workdir=tmp_path / "deep" / "run")
    assert not any(tmp_path.iterdir())


def test_pretraining_takes_presets_configs_and_changes(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []
    monkeypatch.setattr("gpt1_jax.training.pretraining.pretrain", lambda config, _: begun.append(config))
    monkeypatch.setattr("gpt1_jax.usage.learning.TrainedRun", lambda _: None)
    changes: dict[str, Any] = {"seed": 3, "train": {"num_steps": 5}, "data.source": "demo"}
    gpt1_jax.pretrain("tiny", "runs/some", **changes)
    gpt1_jax.pretrain("pretrain:tiny", "runs/some", **changes)
    gpt1_jax.pretrain(ROOT / "configs" / "pretrain.py", "runs/some", **{"train.num_epochs": 2})
    gpt1_jax.pretrain(begun[0], "runs/some")
    assert begun[0] == begun[1] == begun[3]
    assert (begun[0].seed, begun[0].train.num_steps, begun[0].model.num_layers) == (3, 5, 4)
    assert (begun[2].train.num_steps, begun[2].train.num_epochs, begun[2].model.num_layers) == (0, 2, 12)


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_slip_is_one_sentence_in_the_words_of_python(
    base: Path, tmp_path: Path, reviews: TrainedRun
) -> None:
    new: dict[str, Any] = {"kind": "classification", "workdir": tmp_path / "new"}
    assert "kind='clas' is not a kind" in refused(base, REVIEWS, **new | {"kind": "clas"})
    assert "examples is empty" in refused(base, [], **new)
    assert "examples='abc' is not a list" in refused(base, "abc", **new)
    assert "validation is empty" in refused(base, REVIEWS, validation=[], **new)
    assert "examples[1] has no 'label' but 'text'" in refused(base, [REVIEWS[0], {"text": "a"}], **new)
    assert "examples[0] has no 'stars'" in refused(base, [{"text": "a"}], columns={"label": "stars"}, **new)
    assert "examples[0] is ('a',), expected (text, label)" in refused(base, [("a",)], **new)
    assert "examples[1] is not an example" in refused(base, [("a", 1), ("b", None)], **new)
    assert "validation[1] is not an example" in refused(
        base, REVIEWS, validation=[("a", "good"), ("b", "no")], **new
    )
    assert "examples: 'label' is 'b' in all rows" in refused(base, [("a", "b")], **new)
    assert "examples[0] cannot be written as JSON" in refused(base, [("a", object())], **new)
    assert "columns has 'txt'" in refused(base, REVIEWS, columns={"txt": "a"}, **new)
    assert "epochs=-1 is out of range" in refused(base, REVIEWS, epochs=-1, **new)
    assert "train.batchsize is not a key" in refused(base, REVIEWS, train={"batchsize": 1}, **new)
    assert "has no config.json" in refused(tmp_path / "none", REVIEWS, **new)
    held = {"kind": "classification", "workdir": reviews.run.directory}
    assert "holds a run with other examples" in refused(base, REVIEWS[:4], **held)
    assert "another workdir" in refused(base, REVIEWS, seed=2, **SHORT, **held)
    with pytest.raises(gpt1_jax.UserError, match=r"^config=tinny has no such preset"):
        gpt1_jax.pretrain("tinny", tmp_path / "new")
    with pytest.raises(gpt1_jax.UserError, match=r"call gpt1_jax\.finetune"):
        gpt1_jax.pretrain("finetune:custom", tmp_path / "new")


def test_a_directory_in_use_is_named_as_the_argument(
    base: Path, short: dict[str, Any], reviews: TrainedRun
) -> None:
    descriptor = os.open(reviews.run.directory / ".lock", os.O_WRONLY)
    assert lock(descriptor, "")
    try:
        told = refused(base, REVIEWS, kind="classification", workdir=reviews.run.directory, **short)
    finally:
        os.close(descriptor)
    assert told.startswith(f"workdir={reviews.run.directory} is in use")


def test_missing_cells_of_a_frame_are_missing_labels(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas makes frames; it is not installed")
    new: dict[str, Any] = {"kind": "classification", "workdir": tmp_path / "new"}
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "label": [1, None, 2]})
    assert "examples[1] is not an example of custom: 'label' is missing" in refused(base, frame, **new)
    assert "examples[0] has no 'label' but 'text', 'stars'" in refused(
        base, frame.rename(columns={"label": "stars"}), **new
    )
