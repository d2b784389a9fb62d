"""The log of a run: metrics.jsonl, the boards that draw its curves, and what the screen shows."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import jax
from etils import epath

from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.training.entries import Entry, cut_behind, read_entries
from gpt1_jax.training.screen import Screen, describe_metrics
from gpt1_jax.training.showing import Board
from gpt1_jax.training.writers import MlflowWriter, TensorBoardWriter, WandbWriter
from gpt1_jax.wording import counted

_SPEEDS = ("tokens_per_second", "mfu")
# So many seconds the end of a training waits for what is written to a disk, or sent over a network.
_DISK, _NETWORK = 10, 60


class MetricsLog:
    """Writes metrics of a run that may be resumed; only process 0 writes."""

    def __init__(
        self,
        directory: epath.Path,
        step: int,
        num_steps: int,
        unevaluated: bool = False,
        tracker: Literal["none", "wandb", "mlflow"] = "none",
    ) -> None:
        """Opens the log of a run at `step`, of which a `tracker` draws the curves too.

        Entries of later steps, from before a crash, are dropped, and so is the evaluation at `step` if it has to be
        made up.
        """
        self._writes = jax.process_index() == 0
        self._path = directory / "metrics.jsonl"
        self._speed: dict[str, float] = {}
        if not self._writes:
            return

        def wanted(entry: Entry) -> bool:
            made_up = unevaluated and (entry.values["step"], entry.values["kind"]) == (step, "eval")
            return entry.values["step"] <= step and not made_up

        appends, damaged, kept = "://" not in str(directory), [], None
        if not (appends and cut_behind(Path(self._path), wanted)):
            entries, damaged = read_entries(self._path, step)
            kept = [entry.line for entry in entries if wanted(entry)]
        self._file = LineFile(self._path, kept, appends)
        self._screen = Screen(step, num_steps)
        self._boards = _begin_boards(directory, step + 1, tracker, self.tell)
        if damaged:
            numbers = ", ".join(map(str, damaged[:10])) + ", …" * (len(damaged) > 10)
            self.tell(f"{self._path}: {counted(len(damaged), 'damaged line')} left out: {numbers}")
        elif step and kept == []:
            self.tell(f"{self._path} is missing or empty: the log of the steps up to {step} is lost")

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Records a step's values of one kind, "train" or "eval"; numbers that are not finite become null."""
        if not self._writes:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.add(json.dumps({"step": step, "kind": kind, **finite}))
        if kind == "eval":
            self._file.save()
        points = {f"{kind}/{name}": value for name, value in finite.items() if value is not None}
        for board in self._boards:
            board.add(step, points)
        if kind == "train":
            self._speed = {name: values[name] for name in _SPEEDS if name in values}
            self._screen.tell_step(step, values)
        else:
            self.tell(f"step {step}  validation  {describe_metrics(values)}")

    def write_sample(self, step: int, prompt: str, continuation: str) -> None:
        """Shows what a model makes of a prompt, on one line, and keeps it for TensorBoard."""
        if self._writes:
            for board in self._boards:
                board.add_text(step, "sample", f"{prompt} … {continuation}")
            given, made = (" ".join(text.split()) for text in (prompt, continuation))
            self.tell(f"step {step}  sample  “{given}” goes on “{made}”")

    def advance(self, step: int, values: dict[str, float]) -> None:
        """Moves the progress bar, if there is one, and shows the loss."""
        if self._writes:
            self._screen.advance(step, values, self._speed)

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Shows what is done instead of training, if there is a bar."""
        if not self._writes:
            yield
            return
        with self._screen.during(what):
            yield

    def tell(self, sentence: str) -> None:
        """Prints a line, unless nobody can read it any more."""
        if self._writes:
            self._screen.tell(sentence)

    def close(self) -> None:
        """Flushes and closes every writer."""
        if self._writes:
            self._file.close()
            # The boards may take a while, for which nobody wants to look at a bar.
            self._screen.close()
            for board in self._boards:
                board.close()


def _begin_boards(
    directory: epath.Path, first: int, tracker: str, tell: Callable[[str], None]
) -> list[Board]:
    """Returns what draws the curves of a run, whose steps from `first` on are new; `tell` receives an address."""
    boards = [Board("TensorBoard's file", lambda: TensorBoardWriter(directory / "tensorboard", first), _DISK)]
    if tracker == "wandb":
        boards.append(Board("Weights & Biases", lambda: WandbWriter(directory, tell), _NETWORK))
    if tracker == "mlflow":
        boards.append(Board("MLflow", lambda: MlflowWriter(directory), _NETWORK))
    return boards


class LineFile:
    """A file that grows by lines, even where files can only be replaced, as on gs://."""

    def __init__(self, path: epath.Path, lines: list[str] | None, appends: bool) -> None:
        """Begins with these lines instead of what was there, or with that; without `appends`, more wait for `save`."""
        self._path, self._lines = path, lines or []
        self.save = (lambda: None) if appends else self._replace
        if lines is not None:
            self._replace()
        # With a buffer, closing would run into a full disk once more.
        self._file = Path(path).open("ab", buffering=0) if appends else None  # noqa: SIM115

    def add(self, line: str) -> None:
        """Appends a line.

        Raises:
            OSError: with the name of the file.
        """
        if self._file is None:
            self._lines.append(line)
            return
        rest = f"{line}\n".encode()
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            error.filename = str(self._path)
            raise

    def close(self) -> None:
        """Saves the lines that are not saved yet."""
        self.save()
        if self._file is not None:
            self._file.close()

    def _replace(self) -> None:
        write_whole(self._path, "".join(line + "\n" for line in self._lines))
