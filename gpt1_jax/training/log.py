"""The log of a run: metrics.jsonl, TensorBoard, and a progress bar on a terminal or plain lines elsewhere."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.output import lose_output, print_line
from gpt1_jax.training.entries import read_entries
from gpt1_jax.training.showing import Board


class MetricsLog:
    """Writes metrics of a run that may be resumed; only process 0 writes."""

    def __init__(self, directory: epath.Path, step: int, num_steps: int, unevaluated: bool = False) -> None:
        """Opens the log of a run at `step`.

        Entries of later steps, from before a crash, are dropped, and so is the evaluation at `step` if it has to be
        made up.
        """
        self._writes = jax.process_index() == 0
        self._path = directory / "metrics.jsonl"
        self._num_steps = num_steps
        # A notebook asks for colours, and would get a bar, but it shows only plain lines.
        self._console = Console(force_terminal=sys.stdout.isatty())
        self._progress = None
        if not self._writes:
            return
        entries, damaged = read_entries(self._path, step)
        kept = [
            entry.line
            for entry in entries
            if not (unevaluated and (entry.values["step"], entry.values["kind"]) == (step, "eval"))
        ]
        self._file = LineFile(self._path, kept, appends="://" not in str(directory))
        self._board = Board(directory / "tensorboard", step + 1)
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task("", total=num_steps, completed=step)
            self._draw(self._progress.start)
        if damaged:
            numbers = ", ".join(map(str, damaged[:10])) + ", …" * (len(damaged) > 10)
            self.tell(f"{self._path}: {len(damaged)} damaged line(s) are left out: {numbers}")
        elif step and not entries:
            self.tell(f"{self._path} is missing or empty: the log of the steps up to {step} is lost")

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Records a step's values of one kind, "train" or "eval"; numbers that are not finite become null."""
        if not self._writes:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.add(json.dumps({"step": step, "kind": kind, **finite}))
        if kind == "eval":
            self._file.save()
        for name, value in finite.items():
            if value is not None:
                self._board.add_scalar(f"{kind}/{name}", value, step)
        shown = "  ".join(f"{name} {_short(name, value)}" for name, value in values.items())
        if kind == "train" and self._progress is not None:
            text = f"loss {values['loss']:.4f}  {values['tokens_per_second']:,.0f} tokens/s"
            if "mfu" in values:
                text += f"  MFU {values['mfu']:.1%}"
            self._progress.update(self._task, completed=step, description=text)
        elif kind == "train":
            left = (
                (self._num_steps - step) * values["seconds_per_step"]
                if "seconds_per_step" in values
                else None
            )
            self.tell(f"step {step}/{self._num_steps}  {shown}" + (f"  left {_clock(left)}" if left else ""))
        else:
            self.tell(f"step {step}  validation  {shown}")

    def write_text(self, step: int, name: str, text: str) -> None:
        """Shows a text, on one line, and keeps it for TensorBoard."""
        if self._writes:
            self._board.add_text(name, text, step)
            self.tell(f"step {step}  {name}  {' '.join(text.split())}")

    def advance(self, step: int) -> None:
        """Moves the progress bar, if there is one."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def tell(self, sentence: str) -> None:
        """Prints a line, unless nobody can read it any more."""
        if not self._writes:
            return
        if self._progress is None:
            print_line(sentence)
            return
        self._draw(lambda: self._console.print(sentence, highlight=False, markup=False))

    def _draw(self, draw: Callable[[], object]) -> None:
        try:
            draw()
        # rich exits if nobody reads.
        except (OSError, ValueError, SystemExit) as error:
            self._progress = None
            lose_output(error)

    def close(self) -> None:
        """Flushes and closes every writer."""
        if self._writes:
            self._file.close()
            self._board.close()
        if self._progress is not None:
            self._draw(self._progress.stop)


class LineFile:
    """A file that grows by lines, even where files can only be replaced, as on gs://."""

    def __init__(self, path: epath.Path, lines: list[str], appends: bool) -> None:
        """Begins with these lines instead of what was there; without `appends`, further lines wait for `save`."""
        self._path, self._lines = path, lines
        self.save = (lambda: None) if appends else self._replace
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


def _short(name: str, value: float) -> str:
    if name == "learning_rate":
        return f"{value:.2e}"
    if name == "mfu":
        return f"{value:.1%}"
    if name in ("tokens_per_second", "perplexity") and value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if name != "loss" else f"{value:.4f}"


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
