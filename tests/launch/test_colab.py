"""colab.ipynb as its readers run it: every cell in order, in a Python of its own, with less of everything."""

import ast
import base64
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pytest
from command_support import ROOT, read_metrics
from launch_support import LAUNCH, STAND_IN, Cloud
from matplotlib import image
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

NOTEBOOK = LAUNCH / "colab.ipynb"
CURVES = ("pretraining-curves", "fine-tuning-curves")
STEPS = 12
SMALL = {
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.d_model": 32,
    "model.d_ff": 64,
    "model.context_length": 32,
    "data.vocab_size": 400,
    "train.eval_batches": 2,
}

# What a probe behind each picture prints: the words beside it and the numbers in it.
DRAWN = """
print(json.dumps({
    "words": [[axes.get_title(), axes.get_xlabel(), axes.get_ylabel()] for axes in figure.axes],
    "keys": [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes],
    "curves": [[line.get_xydata().tolist() for line in axes.lines] for axes in figure.axes],
    "markers": [[line.get_marker() for line in axes.lines] for axes in figure.axes],
}))
"""
# Before the last cell: nothing has taken an accelerator, and jax is as a machine with a TPU makes it.
BEFORE_PYTHON = """
import sys
print(json.dumps(["jax" in sys.modules, sys.executable]))
import jax
jax.config.update("jax_platforms", "tpu,cpu")
"""


class Executed(NamedTuple):
    """The notebook after its last cell: the cells by their ids, probes among them; where it was; its runs."""

    cells: dict[str, NotebookNode]
    place: Path
    runs: Path


@pytest.fixture(scope="module")
def notebook() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    place = tmp_path_factory.mktemp("colab")
    (place / "configs").symlink_to(ROOT / "configs")
    (place / "launch").mkdir()
    flags = SMALL | {"data.cache_dir": place / "cache"}
    settings = {
        "REPOSITORY": "",
        "RUNS": "runs/test",
        "STEPS": STEPS,
        "EXAMPLES": 32,
        "PROMPT": "It's the king",
        "FLAGS": " ".join(f"--config.{key}={value}" for key, value in flags.items()),
    }
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    given = source_of(notebook, "settings")
    assert settings.keys() == {name.id for name in ast.walk(ast.parse(given)) if isinstance(name, ast.Name)}
    insert(notebook, "settings", "less", "\n".join(f"{name} = {value!r}" for name, value in settings.items()))
    for name in CURVES:
        insert(notebook, name, f"probe-{name}", DRAWN)
    insert(notebook, "about-python", "probe-before", BEFORE_PYTHON)
    insert(notebook, "python", "probe-after", "print(jax.config.jax_platforms, gpt1_jax.__file__)")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("XLA_FLAGS", "MPLBACKEND", "JUPYTER_PATH", "TPU_ACCELERATOR_TYPE"):
            patch.delenv(name, raising=False)
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(place / "jupyter"))  # nothing of whoever runs this
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        resources = {"metadata": {"path": str(place / "launch")}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    return Executed({cell.id: cell for cell in notebook.cells}, place, place / "runs" / "test")


def source_of(notebook: Any, name: str) -> str:
    return next(cell.source for cell in notebook.cells if cell.id == name)


def insert(notebook: Any, after: str, name: str, source: str) -> None:
    """A further code cell behind the cell `after`."""
    number = [cell.id for cell in notebook.cells].index(after)
    notebook.cells.insert(number + 1, new_code_cell(source, id=name))


def said(cell: NotebookNode) -> str:
    """What a cell printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def points(entries: list[dict[str, Any]], kind: str, metric: str) -> list[list[float]]:
    return [[entry["step"], entry[metric]] for entry in entries if entry["kind"] == kind]


# ── The file ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_valid_and_stores_nothing(notebook: NotebookNode) -> None:
    nbformat.validate(json.loads(NOTEBOOK.read_text()))
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata == {
        "accelerator": "TPU",
        "colab": {"gpuType": "V5E1", "provenance": []},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        assert cell.metadata == ({"tags": ["parameters"]} if cell.id == "settings" else {})
        assert cell.cell_type == "markdown" or (cell.outputs, cell.execution_count) == ([], None)


def test_every_cell_of_code_is_explained(notebook: NotebookNode) -> None:
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown" and ("code", "code") not in itertools.pairwise(kinds)


# ── All of it ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_nothing_was_installed_and_the_devices_are_shown(executed: Executed) -> None:
    out = said(executed.cells["install"])
    assert "CpuDevice" in out
    assert "clone" not in out and "pip" not in out


@pytest.mark.slow
def test_it_trains_by_the_commands(executed: Executed) -> None:
    assert "$ python -m gpt1_jax.main --config=configs/pretrain.py:tiny" in said(executed.cells["pretrain"])
    assert f"step {STEPS}/{STEPS}" in said(executed.cells["pretrain"])
    assert (executed.runs / "pretrain" / "checkpoints" / str(STEPS)).exists()
    assert re.search(r"demo_same_verse, step \d+: accuracy", said(executed.cells["finetune"]))
    assert (executed.runs / "same-verse" / "predictions" / "validation.tsv").exists()
    assert {file.name for file in executed.place.iterdir()} == {
        "cache", "configs", "jupyter", "launch", "runs",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
def test_a_picture_is_there(executed: Executed, name: str) -> None:
    (output,) = [x for x in executed.cells[name].outputs if x.output_type == "display_data"]
    picture = image.imread(io.BytesIO(base64.b64decode(output.data["image/png"])))
    height, width, _ = picture.shape
    assert 300 < height < 1000 and 600 < width < 2000
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50  # colors


@pytest.mark.slow
def test_the_curves_are_what_was_measured(executed: Executed) -> None:
    pretrain, finetune = (read_metrics(executed.runs / run) for run in ("pretrain", "same-verse"))
    first, second = (json.loads(said(executed.cells[f"probe-{name}"])) for name in CURVES)
    losses = [points(pretrain, kind, "loss") for kind in ("train", "eval")]
    assert first["curves"] == [losses]
    assert [len(curve) for curve in losses] == [STEPS, 6]

    left, (chance, right) = second["curves"]
    accuracies = points(finetune, "eval", "accuracy")
    assert left == [points(finetune, "train", "task_loss")]
    assert right == accuracies
    assert len(accuracies) == 6
    assert {height for _, height in chance} == {0.5}

    for drawn in (first, second):
        assert all(all(words) for words in drawn["words"])
    assert first["keys"] == [["training", "held-out books"]]
    assert second["keys"] == [["training"], ["chance", "held-out books"]]
    assert first["markers"] == [["None", "o"]] and second["markers"] == [["None"], ["None", "o"]]


@pytest.mark.slow
def test_it_writes(executed: Executed) -> None:
    out = said(executed.cells["generate"])
    assert out.count("\nIt's the king") == 2
    texts = said(executed.cells["python"]).split("\n\n")
    for prompt in ("It's the king", "And the king said unto", "Blessed is"):
        assert any(text.startswith(prompt) and len(text) > len(prompt) + 10 for text in texts)


@pytest.mark.slow
def test_it_judges(executed: Executed) -> None:
    lines = (executed.runs / "labeled.jsonl").read_text().splitlines()
    labels = [json.loads(line)["label"] for line in lines]
    shown = said(executed.cells["predict"]).splitlines()[-len(lines) :]
    assert len(lines) == 4 and set(labels) <= {"same", "different"}
    assert [line.split()[0] for line in shown] == labels
    assert all("%" in line and line.endswith(".") for line in shown)


@pytest.mark.slow
def test_it_leaves_the_accelerator_alone(executed: Executed) -> None:
    """A TPU that the notebook's own process has taken is lost to its commands."""
    imported, executable = json.loads(said(executed.cells["probe-before"]))
    assert not imported
    assert Path(executable).samefile(sys.executable)
    platforms, file = said(executed.cells["probe-after"]).split()
    assert platforms == "cpu"
    assert Path(file).samefile(ROOT / "gpt1_jax" / "__init__.py")


# ── The installation, against stand-ins ──────────────────────────────────────────────────────────────────────

CLONES = """
if "clone" in sys.argv:
    configs = pathlib.Path(sys.argv[-1]) / "configs"
    configs.mkdir(parents=True)
    (configs / "pretrain.py").touch()
"""
IN_A_CLONE = """
sys.exit(not pathlib.Path("configs/pretrain.py").exists())
"""
# A machine with these devices, and Python's own find_spec, or one that has no demo text.
MACHINE = """
import importlib.util, pathlib, sys
python, sys.executable = sys.executable, {python!r}
exists = pathlib.Path.exists
pathlib.Path.exists = lambda path: str(path) in {devices} if str(path).startswith("/dev/") else exists(path)
if not {installed}:
    importlib.util.find_spec = lambda name: None
"""
URL = "https://github.com/YOU/gpt1_jax"
LOOK = ["python", "-c", "import jax; print(jax.devices())"]


class Machine:
    """A machine on which the notebook's installation runs: git and pip are stand-ins that record their calls."""

    def __init__(self, directory: Path) -> None:
        self.cloud = Cloud(directory / "bin", "git", "python")
        self.cloud.script("git", STAND_IN.format(python=sys.executable) + CLONES)
        self.cloud.script("python", STAND_IN.format(python=sys.executable) + IN_A_CLONE)
        self.content = directory / "content"
        self.content.mkdir()

    def script(self, repository: str, devices: tuple[str, ...], installed: bool, then: str) -> Path:
        """The first cells as a program, and what comes then."""
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        python = str(self.cloud.directory / "python")
        parts = [
            MACHINE.format(python=python, devices=devices, installed=installed),
            source_of(notebook, "settings"),
            f"REPOSITORY = {repository!r}",
            source_of(notebook, "install"),
            "sys.executable = python",
            then,
        ]
        path = self.cloud.directory / "cells.py"
        path.write_text("\n".join(parts))
        return path

    def install(
        self,
        repository: str = URL,
        devices: tuple[str, ...] = (),
        installed: bool = False,
        then: str = "",
        expect: int = 0,
        **environment: str,
    ) -> str:
        """What the first cells print, in a fresh process."""
        script = self.script(repository, devices, installed, then)
        out, err = self.cloud.run(sys.executable, script, cwd=self.content, expect=expect, **environment)
        return out + err


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("tpu", "devices", "extras"),
    [
        ("v5e-1", (), "demo,tpu"),
        ("", ("/dev/vfio/0",), "demo,tpu"),
        ("", ("/dev/nvidiactl",), "demo,cuda"),
        ("", (), "demo"),
    ],
)
def test_it_installs_once_what_the_machine_needs(
    machine: Machine, tpu: str, devices: tuple[str, ...], extras: str
) -> None:
    machine.install(devices=devices, TPU_ACCELERATOR_TYPE=tpu)
    clone = ["git", "clone", "--depth=1", URL, "gpt1-jax"]
    install = ["python", "-m", "pip", "install", "--quiet", "--editable", f".[{extras}]"]
    assert machine.cloud.calls() == [clone, install, LOOK]
    machine.install(devices=devices, installed=True, TPU_ACCELERATOR_TYPE=tpu)  # the session was restarted
    assert machine.cloud.calls() == [clone, install, LOOK, LOOK]


@pytest.mark.parametrize(
    ("driver", "extra"),
    [
        ("550.54.15", "cuda12"),
        ("575.1", "cuda12"),
        ("580.65.06", "cuda"),
        ("600.1\n600.1", "cuda"),
        ("?", "cuda"),
    ],
)
def test_an_old_driver_gets_an_old_cuda(machine: Machine, driver: str, extra: str) -> None:
    machine.cloud.script("nvidia-smi", f"#!/bin/sh\necho '{driver}'\n")
    machine.install(devices=("/dev/nvidiactl",))
    assert machine.cloud.calls()[1][-1] == f".[demo,{extra}]"


def test_a_clone_around_it_is_taken(machine: Machine) -> None:
    (machine.content / "launch").mkdir()
    (machine.content / "configs").mkdir()
    (machine.content / "configs" / "pretrain.py").touch()
    machine.content = machine.content / "launch"
    machine.install(repository="")
    assert [call[:4] for call in machine.cloud.calls()] == [["python", "-m", "pip", "install"], LOOK]


def test_a_missing_repository_is_told(machine: Machine) -> None:
    assert "ValueError: REPOSITORY is empty" in machine.install(repository="", expect=1)
    assert machine.cloud.calls() == []


def test_a_command_that_fails_stops_it(machine: Machine) -> None:
    then = """sh("python -c 'print(1); exit(3)'")\nprint("on")"""
    out = machine.install(then=then, expect=1)
    assert "\n1\n" in out and "RuntimeError: the command ended with 3" in out and "\non\n" not in out


SAVES = """
import signal, sys, time
def stop(number, frame):
    print("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_stopped_cell_stops_its_command(machine: Machine) -> None:
    """A signal to the notebook's process alone suffices; what the command then says is still shown."""
    machine.install()
    saves = machine.cloud.directory / "saves.py"
    saves.write_text(SAVES)
    script = machine.script("", (), installed=True, then=f'sh("python {saves}")')
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, script], cwd=machine.content, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "saved\n" in out and out.rstrip().endswith("KeyboardInterrupt")
