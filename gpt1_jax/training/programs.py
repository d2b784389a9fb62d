"""What a compiled program sends between devices, read from its text."""

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)")
_TRIPS = re.compile(r"known_trip_count\D+(\d+)")


@dataclass(frozen=True)
class Sent:
    """Of one kind of collective in one run of a program: how many there are, and the bytes of their results."""

    count: int
    bytes: int


def collectives(text: str) -> dict[str, Sent]:
    """The collectives of a program by kind; those within loops of known length count as often as the loop turns.

    Args:
        text: HLO, as `compiled.as_text()` gives it.
    """
    here: dict[str, Counter[str]] = defaultdict(Counter)  # kind → number, "kind bytes" → bytes
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    name = entry = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name = match[1]
            entry = name if line.startswith("ENTRY") else entry
            continue
        if match := _COLLECTIVE.search(line):
            shapes = _SHAPE.findall(match[1])
            if match[3] and match[2] != "all-reduce":  # a pair: what goes in, what comes out
                shapes = shapes[len(shapes) // 2 :] or shapes
            here[name][match[2]] += 1
            here[name][f"{match[2]} bytes"] += sum(
                _BYTES.get(kind, 4) * math.prod(map(int, filter(None, size.split(","))))
                for kind, size in shapes
            )
        trips = int(found[1]) if (found := _TRIPS.search(line)) else 1
        calls[name] += [(called, trips) for called in _CALLED.findall(line)]

    def total(name: str) -> Counter[str]:
        result = Counter(here[name])
        for called, trips in calls[name]:
            for key, value in total(called).items():
                result[key] += trips * value
        return result

    found = total(entry)
    return {kind: Sent(found[kind], found[f"{kind} bytes"]) for kind in KINDS if found[kind]}
