"""What a page says about a run: read from the files of its run directory alone."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from gpt1_jax.config import Config
from gpt1_jax.errors import UserError
from gpt1_jax.overrides import flatten, to_dict
from gpt1_jax.pages.judged import Judged
from gpt1_jax.pages.samples import read_samples
from gpt1_jax.run import Run

PAGE = "report.html"
# How the files begin that keep the zero-shot scores of several checkpoints of a run; the task follows.
ZERO_SHOT = "zero_shot-"
MASKED = "masked perplexity"
# The block of the page that keeps what the run's other files do not.
KEPT_BEGIN, KEPT_END = '<script type="application/json" id="judged">', "</script>"
# A page this large is not one of ours.
_LARGEST = 2**26


@dataclass(frozen=True)
class Facts:
    """A run as a page shows it.

    Attributes:
        name: the path by which the run is named.
        config: the run's config.
        curves: metric → (step, value) pairs, "loss" from training, "validation loss" from evaluations, and
            "zero-shot TASK METRIC" of what `evaluate` has measured at several steps. The perplexity of a run that
            fills masks is called "masked perplexity", since it belongs to the hidden pieces alone.
        results: the content of results.json.
        samples: (step, text) of the samples, in order.
        judged: the judged validation examples of a fine-tuned run, if there are any.
    """

    name: str
    config: Config
    curves: Mapping[str, Sequence[tuple[int, float]]]
    results: Mapping[str, Any]
    samples: Sequence[tuple[int, str]] = ()
    judged: Judged | None = None
    _flat: dict[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_flat", flatten(to_dict(self.config)))

    @property
    def values(self) -> Mapping[str, Any]:
        """The config's values by their dotted names."""
        return self._flat

    @property
    def step(self) -> int:
        """The last logged step, or 0."""
        return max((points[-1][0] for points in self.curves.values() if points), default=0)

    @property
    def score(self) -> str:
        """The name of the metric that decides which evaluation is the best."""
        best = self.results.get("best") or {}
        return "loss" if self.config.finetune is None else next((n for n in best if n != "step"), "")


def read_facts(run: Run, judged: Judged | None = None) -> Facts:
    """Reads what a page says about a run.

    Args:
        run: the run directory.
        judged: the judged examples; None takes those of the page that is already there.

    Raises:
        UserError: this is no run, or its config cannot be read.
    """
    config = run.config()
    curves = _read_curves(run.directory / "metrics.jsonl", "validation ")
    for path in sorted(run.directory.glob(f"{ZERO_SHOT}*.jsonl")):
        curves |= _read_curves(path, f"zero-shot {path.stem.removeprefix(ZERO_SHOT)} ")
    results = run.results()
    if not config.model.causal and config.finetune is None:
        curves = {name.replace("perplexity", MASKED): points for name, points in curves.items()}
        results = {part: _renamed(values) for part, values in results.items()}
    return Facts(
        name=str(run.directory),
        config=config,
        curves=curves,
        results=results,
        samples=read_samples(run.directory / "tensorboard"),
        judged=judged or _kept(run.directory / PAGE),
    )


def find_runs(directory: epath.Path) -> list[Run]:
    """Returns the runs in a directory and below it, in order of their names.

    Raises:
        UserError: there is none.
    """
    found = [Run(str(path.parent)) for path in sorted(_configs(directory, depth=3))]
    if not found:
        raise UserError(f"{directory} holds no run directory; name one, or a directory of some.")
    return found


def _configs(directory: epath.Path, depth: int) -> Iterator[epath.Path]:
    if (directory / "config.json").exists():
        yield directory / "config.json"
    elif depth and directory.is_dir():
        for path in directory.iterdir():
            if path.is_dir() and not path.name.startswith("."):
                yield from _configs(path, depth - 1)


def _renamed(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {MASKED if name == "perplexity" else name: value for name, value in values.items()}


def _read_curves(path: epath.Path, evaluated: str) -> dict[str, list[tuple[int, float]]]:
    """Returns the curves of a log; a line that cannot be read is passed over, since the run may be writing it.

    Args:
        path: the log.
        evaluated: goes before the names of what training did not log.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            continue
        prefix = evaluated if entry.get("kind", "eval") == "eval" else ""
        for name, value in entry.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(prefix + name, []).append((entry["step"], float(value)))
    return curves


def _kept(path: epath.Path) -> Judged | None:
    """Returns the judged examples that an earlier page keeps, or None."""
    try:
        if path.stat().length > _LARGEST:
            return None
        text = path.read_text()
        start = text.index(KEPT_BEGIN) + len(KEPT_BEGIN)
        return Judged.from_json(json.loads(text[start : text.index(KEPT_END, start)]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
