"""Where the curves of a run are written besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow."""

import importlib.util
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from etils import epath

from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.errors import UserError
from gpt1_jax.overrides import flatten

# The name under which the runs are listed, unless the environment names another.
_PROJECT = "gpt1_jax"
# Where a run keeps its ids, so that it is one run there too, however often it is resumed.
_IDS = "tracking.json"


class Writer(Protocol):
    """Draws curves. All calls come from one thread, and any may fail: that ends the writer, not the training."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each of some curves."""
        ...

    def add_text(self, step: int, name: str, text: str) -> None:
        """Adds a text."""
        ...

    def flush(self) -> None:
        """Makes what was added so far visible."""
        ...

    def close(self) -> None:
        """Ends the writing."""
        ...


def check_tracker(tracker: str) -> None:
    """Checks that the package of a tracker is installed.

    Raises:
        UserError: it is not.
    """
    found = None if tracker == "none" else importlib.util.find_spec(tracker)
    # A directory of that name, which these packages leave behind, is found too, but has no origin.
    if tracker != "none" and (found is None or found.origin is None):
        raise UserError(
            f"train.tracker={tracker} needs a package that is not installed; run pip install 'gpt1_jax[{tracker}]', or "
            "set train.tracker=none."
        )


class TensorBoardWriter:
    """TensorBoard's events, in a file of each start of the training."""

    def __init__(self, directory: epath.Path, first: int) -> None:
        """Begins a file of events, which replaces those of other files from step `first` on."""
        # This takes half a second, in which the main thread may compile.
        from gpt1_jax.disk import events

        self._events = events
        events.directory_check(str(directory))
        self._writer = events.EventsWriter(f"{directory}/events")
        self._write(first, session_log=events.SessionLog(status=events.SessionLog.START))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each of some curves."""
        for name, value in values.items():
            self._write(step, summary=self._events.summary.scalar(name, value))

    def add_text(self, step: int, name: str, text: str) -> None:
        """Adds a text."""
        self._write(step, summary=self._events.summary.text(name, text))

    def flush(self) -> None:
        """Writes to the disk what was added so far."""
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._events.Event(step=step, wall_time=time.time(), **content))


class WandbWriter:
    """A run of Weights & Biases; WANDB_PROJECT, WANDB_MODE=offline and their like say where it goes."""

    def __init__(self, directory: epath.Path, tell: Callable[[str], None]) -> None:
        """Begins the run of a run directory, or goes on with it; `tell` receives where it can be seen, unless offline.

        Raises:
            RuntimeError: no key is known, and one would be asked for on a terminal that shows the training.
        """
        import wandb  # pyright: ignore[reportMissingImports]

        online = os.environ.get("WANDB_MODE", "online") == "online"
        if online and not wandb.login(prompt=False):
            raise RuntimeError("no key is known; run wandb login, or set WANDB_MODE=offline")
        known = _read_ids(directory).get("wandb") or secrets.token_hex(8)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=known,
            name=directory.name,
            resume="allow",
            dir=None if "://" in str(directory) else str(directory),
            config=_read_config(directory),
            settings=wandb.Settings(silent=True, console="off"),
        )
        _keep_id(directory, "wandb", known)
        if online:
            tell(f"{'curves':8} {self._run.url}")
        # Steps that are done again after a crash have to be taken again, so they cannot be W&B's own.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each of some curves."""
        self._run.log({"step": step, **values})

    def add_text(self, step: int, name: str, text: str) -> None:
        """Adds a text, the last of which stands in the run's summary."""
        self._run.summary[name] = text

    def flush(self) -> None:
        """Does nothing: W&B sends what it has by itself."""

    def close(self) -> None:
        """Ends the run, or this part of it."""
        self._run.finish()


class MlflowWriter:
    """A run of MLflow; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where it goes."""

    def __init__(self, directory: epath.Path) -> None:
        """Begins the run of a run directory, or goes on with it."""
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

        # It would write of its tables between the lines of the training.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._metric, self._client = Metric, MlflowClient()
        known = _read_ids(directory).get("mlflow")
        if known is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = self._client.create_experiment(name) if found is None else found.experiment_id
            known = self._client.create_run(experiment, run_name=directory.name).info.run_id
            # A key may change when a run is resumed, which MLflow does not allow for what it calls a parameter.
            values = [Param(key, str(value)) for key, value in _read_config(directory).items()]
            self._client.log_batch(known, params=values)
            _keep_id(directory, "mlflow", known)
        else:
            self._client.update_run(known, status="RUNNING")
        self._id = known

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each of some curves."""
        now = round(time.time() * 1000)
        points = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=points)

    def add_text(self, step: int, name: str, text: str) -> None:
        """Adds a text, as a file of the run."""
        self._client.log_text(self._id, text, f"{name}/{step}.txt")

    def flush(self) -> None:
        """Does nothing: every call is written."""

    def close(self) -> None:
        """Ends the run, or this part of it."""
        self._client.set_terminated(self._id)


def _read_config(directory: epath.Path) -> dict[str, Any]:
    return flatten(json.loads((directory / "config.json").read_text()))


def _read_ids(directory: epath.Path) -> dict[str, str]:
    path = directory / _IDS
    return json.loads(path.read_text()) if path.exists() else {}


def _keep_id(directory: epath.Path, tracker: str, known: str) -> None:
    write_whole(directory / _IDS, json.dumps(_read_ids(directory) | {tracker: known}) + "\n")
