"""A bar on a terminal for what takes long with a finished run."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from gpt1_jax.training.evaluation import Watch, unwatched
from gpt1_jax.training.screen import Left


@contextlib.contextmanager
def bar(what: str) -> Iterator[Watch]:
    """Yields what is told how far the work is; standard error shows that as a bar if it is a terminal.

    Args:
        what: the work, such as "measuring".
    """
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield unwatched
        return
    columns = TextColumn(what), BarColumn(None), TextColumn("{task.percentage:.0f} %"), Left()
    with Progress(*columns, console=console, transient=True, expand=True, refresh_per_second=2) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def within(watch: Watch, before: int, count: int, total: int) -> Watch:
    """Returns what is told how far a part of the work is: the next `count` of `total`, behind the first `before`."""
    return lambda done, whole: watch(before * whole + count * done, total * whole)
