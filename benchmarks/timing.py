"""The harness of all timings here: sides take turns, round by round, so that what disturbs one disturbs the others.

A turn begins with a call that is not timed. Users run one side alone; here it would find the memory and the caches of
the other, and for a while its threads.

    rows = measure({"ours": ours, "theirs": theirs}, rounds=7, work=batch * length, unit="tokens")
    for row in rows:
        print(row)
    conclude(rows=[asdict(row) for row in rows], preset="tiny")

prints

    ours                     3,512.0 tokens/s  (0.29 to 0.31 s)
    theirs                   1,967.3 tokens/s  (0.50 to 0.56 s)  ours is 1.78 (1.70 to 1.85) times as fast

and a line of JSON with the same and the machine.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

_LOAD = os.getloadavg()[0]  # before there is any of our own


@dataclass(frozen=True)
class Spread:
    """The median, the lowest and the highest of some numbers."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Iterable[float]) -> "Spread":
        """Returns the spread of one number or more."""
        numbers = list(numbers)
        return cls(statistics.median(numbers), min(numbers), max(numbers))


@dataclass(frozen=True)
class Row:
    """The measurement of one side.

    Attributes:
        side: its name.
        unit: what its work is counted in.
        rounds: in how many it took part.
        seconds: how long a round took.
        speed: units of work a second.
        first: the name of the first side.
        first_is: how many times as fast as this side the first one was, in each round that both took part in.
    """

    side: str
    unit: str
    rounds: int
    seconds: Spread
    speed: Spread
    first: str
    first_is: Spread

    def __str__(self) -> str:
        seconds, ratio = self.seconds, self.first_is
        speed = f"{_number(self.speed.median):>9} {self.unit}/s"
        line = f"{self.side:22} {speed}  ({seconds.low:.3g} to {seconds.high:.3g} s)"
        if self.side == self.first:
            return line
        return (
            f"{line}  {self.first} is {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) times as fast"
        )


def measure(
    sides: Mapping[str, Callable[[], object]],
    rounds: int | Mapping[str, int],
    work: float | Mapping[str, float] = 1,
    unit: str = "calls",
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Times the second of two calls of every side in a round, every other round in reverse order.

    Args:
        sides: functions by name. If one returns jax arrays, these are waited for; any other function must wait for its
            device itself.
        rounds: how many, for all sides or for each; the first side takes part in most.
        work: how many units a call does, for all sides or for each.
        unit: the name of the unit, in the plural.
        clock: returns seconds.

    Returns:
        A row for each side that took part in a round, in their order.
    """
    turns = dict(rounds) if isinstance(rounds, Mapping) else dict.fromkeys(sides, rounds)
    amounts = dict(work) if isinstance(work, Mapping) else dict.fromkeys(sides, work)
    names = [name for name in sides if turns[name]]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(max(turns.values())):
        for name in names if number % 2 == 0 else reversed(names):
            if number < turns[name]:
                jax.block_until_ready(sides[name]())
                began = clock()
                jax.block_until_ready(sides[name]())
                seconds[name].append(clock() - began)
    speeds = {name: [amounts[name] / time for time in times] for name, times in seconds.items()}
    first = names[0]
    return [
        Row(
            side=name,
            unit=unit,
            rounds=len(seconds[name]),
            seconds=Spread.of(seconds[name]),
            speed=Spread.of(speeds[name]),
            first=first,
            first_is=Spread.of(
                ours / theirs for ours, theirs in zip(speeds[first], speeds[name], strict=False)
            ),
        )
        for name in names
    ]


def exponent(points: list[dict[str, Any]], cost: str) -> float:
    """Returns the power with which a cost grows with a size, by least squares of the logarithms."""
    values, costs = ([point[key] for point in points] for key in ("value", cost))
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def machine() -> dict[str, Any]:
    """Returns what a page of results says above them: processor, cores, versions, and the command that is running."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"-m {spec.name}" if spec else sys.argv[0]
    return {
        "command": " ".join(["python", program, *sys.argv[1:]]),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_before": _LOAD,  # near 0 on a quiet machine
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("jax", "torch", "transformers")},
    }


def conclude(**facts: Any) -> None:
    """Prints the facts, and those of the machine, as a line of JSON."""
    print(json.dumps(facts | {"machine": machine()}))


def _processor() -> str:
    """Returns the name of the processor, if the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _number(value: float) -> str:
    """Returns a number with four digits or more, and commas."""
    return f"{value:,.0f}" if value >= 10_000 else f"{value:,.1f}" if value >= 100 else f"{value:.4g}"
