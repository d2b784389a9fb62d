"""What a training shows: lines, and on a terminal a bar below them; elsewhere no bar and no control characters."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from gpt1_jax.output import lose_output, print_line

# The bar is drawn so many times a second.
_DRAWN = 2
# The time that is left is told by the speed of so many seconds.
_SPEED_SECONDS = 600
_NAMES = {"task_loss": "L2", "lm_loss": "L1"}


class Screen:
    """The lines of a training, and its bar where standard output is a terminal.

    If the output breaks, a warning says so once, and the training goes on.
    """

    def __init__(self, step: int, num_steps: int) -> None:
        """Takes the step at which the training begins, and that at which it ends."""
        self._num_steps = num_steps
        # A notebook asks for colours, and would get a bar, but it shows only plain lines.
        self._console = Console(force_terminal=sys.stdout.isatty(), highlight=False, markup=False)
        self._progress = None
        # A dumb terminal, such as a shell in an editor, cannot draw a line anew.
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            whole = Column(no_wrap=True)
            self._progress = Progress(
                TextColumn("step {task.completed}/{task.total}", table_column=whole),
                BarColumn(None, table_column=Column(ratio=1)),
                _Now(table_column=whole),
                Left(table_column=whole),
                console=self._console,
                refresh_per_second=_DRAWN,
                speed_estimate_period=_SPEED_SECONDS,
                expand=True,
                transient=True,
            )
            self._task = self._progress.add_task("", total=num_steps, completed=step, now="", since=None)
            self._draw(self._progress.start)

    def tell(self, sentence: str) -> None:
        """Prints a line, unless nobody can read it any more."""
        if self._progress is None:
            print_line(sentence)
        else:
            self._draw(lambda: self._console.print(sentence))

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Shows in the bar what is done instead of training, and for how long."""
        if self._progress is None:
            yield
            return
        before = self._progress.tasks[0].fields["now"]
        self._progress.update(self._task, now=what, since=time.monotonic())
        try:
            yield
        finally:
            if self._progress is not None:
                self._progress.update(self._task, now=before, since=None)

    def advance(self, step: int, values: Mapping[str, float], speed: Mapping[str, float]) -> None:
        """Moves the bar, if there is one.

        Args:
            step: the last step that is done.
            values: its loss.
            speed: "tokens_per_second", and "mfu" where that is known, as they were logged last.
        """
        if self._progress is None:
            return
        now = f"loss {values['loss']:.4f}"
        if "tokens_per_second" in speed:
            now += f"  {speed['tokens_per_second']:,.0f} tokens/s"
        if "mfu" in speed:
            now += f"  MFU {speed['mfu']:.0%}"
        self._progress.update(self._task, completed=step, now=now)

    def tell_step(self, step: int, values: Mapping[str, float]) -> None:
        """Prints a logged step; above a bar, which has the speed and the time left, the line fits 80 columns."""
        line = f"step {step}/{self._num_steps}  {_describe_losses(values)}"
        if "learning_rate" in values:
            name = "learning rate" if self._progress is None else "rate"
            line += f"  {name} {values['learning_rate']:.2g}"
        if self._progress is None:
            line += _describe_rest(values, self._num_steps - step)
        self.tell(line)

    def close(self) -> None:
        """Takes the bar away, which has nothing more to say."""
        if self._progress is not None:
            self._draw(self._progress.stop)

    def _draw(self, draw: Callable[[], object]) -> None:
        try:
            draw()
        # rich exits if nobody reads.
        except (OSError, ValueError, SystemExit) as error:
            self._progress = None
            lose_output(error)


def _describe_losses(values: Mapping[str, float]) -> str:
    """Returns the losses, each by its name in the paper if there are several; the perplexity is behind its own."""
    told = [f"loss {values['loss']:.4f}"]
    parts = {name: values[key] for key, name in _NAMES.items() if key in values}
    if len(parts) > 1:
        told += [f"{name} {value:.4f}" for name, value in parts.items()]
    if "perplexity" in values:
        told[-1] += f" (perplexity {spell_number(values['perplexity'])})"
    return "  ".join(told)


def _describe_rest(values: Mapping[str, float], steps: int) -> str:
    """Returns the gradient norm, the speed, the memory, and the time that the remaining steps take."""
    forms = {
        "grad_norm": "gradient norm {:.3g}",
        "tokens_per_second": "{:,.0f} tokens/s",
        "mfu": "MFU {:.1%}",
        "memory_gb": "{:.3g} GB",
    }
    told = [form.format(values[name]) for name, form in forms.items() if name in values]
    if left := steps * values.get("seconds_per_step", 0):
        told.append(f"{spell_clock(left)} left")
    return "".join(f"  {part}" for part in told)


def describe_metrics(values: Mapping[str, float]) -> str:
    """Returns what was measured: "loss 4.2136  perplexity 67.6  bits per byte 1.58"."""
    return "  ".join(
        f"{name.replace('_', ' ')} {value:.4f}"
        if name == "loss"
        else f"{name.replace('_', ' ')} {spell_number(value)}"
        for name, value in values.items()
    )


def spell_number(value: float) -> str:
    """Returns a number in four digits, or without a fraction if it has more."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def spell_clock(seconds: float) -> str:
    """Returns a time as on a clock, 0:05:12, or in days."""
    if seconds >= 48 * 3600:
        return f"{seconds / 86400:.1f} days"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


class _Now(ProgressColumn):
    """What is done now: the loss and the speed of the steps, or for how long something else has been done."""

    def render(self, task: Task) -> Text:
        since: Any = task.fields["since"]
        passed = "" if since is None else f" {spell_clock(time.monotonic() - since)}"
        return Text(f"{task.fields['now']}{passed}")


class Left(ProgressColumn):
    """The time that is left, with its name."""

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if left is None or task.finished else f"{spell_clock(left)} left")
