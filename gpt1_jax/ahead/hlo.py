"""Reads from a compiled program's text what one run sends, and the time that its compiler expects."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# TPU slices are connected through their hosts.
SLICES = "between slices"
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
_SEND = re.compile(r"= \((\w+\[[\d,]*\]).* send\(.*is_host_transfer=true")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = ")
_OPERAND = re.compile(r"%([\w.-]+)")
_TRIPS = re.compile(r"known_trip_count\D+(\d+)")
_LOOP = re.compile(r" while\(%([\w.-]+)\), condition=%([\w.-]+)")
_BELOW = re.compile(r" compare\(%([\w.-]+), %([\w.-]+)\), direction=LT")
_ELEMENT = re.compile(r" get-tuple-element\(.*index=(\d+)")
_CONSTANT = re.compile(r" constant\((\d+)\)")
_LISTED_GROUP = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_SHAPED_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_CHAIN = re.compile(r'chain_id="(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclass(frozen=True)
class Sent:
    """The collectives of one kind in one run.

    Attributes:
        count: how many there are.
        bytes: the bytes that a device sends at least.
        hidden: the bytes among them that it sends while it computes.
    """

    count: int = 0
    bytes: int = 0
    hidden: int = 0


class Program:
    """The text of a compiled program: HLO, as `compiled.as_text()` returns it.

    What stands in a loop counts as often as the loop runs, if the text shows how often that is.
    """

    def __init__(self, text: str) -> None:
        """Splits the text into computations."""
        # For each computation, its lines by the names that they define.
        self._lines: dict[str, dict[str, str]] = defaultdict(dict)
        self._entry = name = ""
        for line in text.splitlines():
            if match := _COMPUTATION.match(line):
                name = match[1]
                self._entry = name if line.startswith("ENTRY") else self._entry
            elif match := _INSTRUCTION.match(line):
                self._lines[name][match[1]] = line

    def collectives(self) -> dict[str, Sent]:
        """Returns what is sent, by kind; SLICES is what goes to other slices."""
        found: dict[str, Sent] = defaultdict(Sent)
        chains = set()
        for name, line, times in self._executed(self._entry, 1):
            kind, size = _sent(line, scatters=name.startswith("all-reduce-scatter"))
            if kind is None:
                continue
            # If a collective runs beside matrix products, its parts are fused with them, and each names all of it.
            chain = _CHAIN.search(line)
            if chain and chain[1] in chains:
                continue
            chains.add(chain and chain[1])
            before = found[kind]
            hidden = times * size if chain else 0
            found[kind] = Sent(before.count + times, before.bytes + times * size, before.hidden + hidden)
        return {kind: found[kind] for kind in (*KINDS, SLICES) if kind in found}

    def cycles(self) -> dict[str, int]:
        """Returns the compiler's estimate of cycles for "matmuls" (with what is fused to them) and for "other".

        Only a TPU's compiler gives one. It includes an instruction's waits for memory, but neither collectives nor
        kernels.
        """
        found = Counter({"matmuls": 0, "other": 0})
        for _, line, times in self._executed(self._entry, 1):
            if match := _CYCLES.search(line):
                found["matmuls" if self._multiplies(line) else "other"] += times * int(match[1])
        return dict(found)

    def kernels(self) -> int:
        """Returns how many kernels of our own a run calls."""
        return sum(
            times
            for _, line, times in self._executed(self._entry, 1)
            if 'custom_call_target="tpu_custom_call"' in line
        )

    def _executed(self, name: str, times: int) -> Iterator[tuple[str, str, int]]:
        """Yields (computation, instruction, number of runs) for all that a computation runs when it runs `times`."""
        for line in self._lines[name].values():
            yield name, line, times
            called = _CALLED.findall(line)
            turns = times * self._turns(name, line) if called else 0
            for inner in called:
                yield from self._executed(inner, turns)

    def _turns(self, name: str, line: str) -> int:
        """Returns how often an instruction runs what it calls: once, or as often as a loop repeats.

        In a TPU's program only the loop's counter shows that: its initial value and its upper limit.
        """
        if match := _TRIPS.search(line):
            return int(match[1])
        if not (loop := _LOOP.search(line)):
            return 1
        initial, condition = self._lines[name].get(loop[1], ""), self._lines[loop[2]]
        below = next(filter(None, map(_BELOW.search, condition.values())), None)
        counter = _ELEMENT.search(condition.get(below[1], "")) if below else None
        if not below or not counter:
            return 1
        operands = _OPERAND.findall(initial.partition(" tuple(")[2])
        start = self._constant(name, operands[int(counter[1])]) if operands else None
        stop = self._constant(loop[2], below[2])
        return 1 if start is None or stop is None else stop - start

    def _constant(self, name: str, value: str) -> int | None:
        """Returns the number that a value of a computation is or copies, or None."""
        line = self._lines[name].get(value, "")
        if match := _CONSTANT.search(line):
            return int(match[1])
        source = _OPERAND.findall(line.partition(" copy(")[2])
        return self._constant(name, source[0]) if source else None

    def _multiplies(self, line: str) -> bool:
        """Returns whether an instruction is a matrix product, or has one fused into it."""
        return any(word in line for word in (" convolution(", " dot(")) or any(
            self._multiplies(inner)
            for called in _CALLED.findall(line)
            for inner in self._lines[called].values()
        )


def _sent(line: str, scatters: bool) -> tuple[str | None, int]:
    """Returns (kind, least bytes that a device sends) of an instruction, or None if it is not a collective.

    Args:
        scatters: whether a slice follows an all-reduce directly, which makes it a reduce-scatter.
    """
    if match := _SEND.search(line):
        return SLICES, _size(match[1])
    if not (match := _COLLECTIVE.search(line)):
        return None, 0
    result, kind = match[1], match[2]
    shapes = [shape[0] for shape in _SHAPE.finditer(result)]
    # A pair consists of what goes in and what comes out.
    if match[3] and kind != "all-reduce":
        shapes = shapes[len(shapes) // 2 :]
    size, devices = sum(map(_size, shapes)), _group_size(line)
    others = (devices - 1) / devices
    if kind == "all-reduce":
        return ("reduce-scatter", round(others * size)) if scatters else (kind, round(2 * others * size))
    if kind == "reduce-scatter":
        return kind, (devices - 1) * size
    return kind, size if kind == "collective-permute" else round(others * size)


def _size(shape: str) -> int:
    """Returns the bytes of a shape such as f32[8,128]."""
    dtype, sizes = shape.rstrip("]").split("[")
    return _BYTES.get(dtype, 4) * math.prod(map(int, filter(None, sizes.split(","))))


def _group_size(line: str) -> int:
    """Returns how many devices take part in a collective together; 2 if the line does not show it."""
    if match := _LISTED_GROUP.search(line):
        return match[1].count(",") + 1
    if match := _SHAPED_GROUPS.search(line):
        return int(match[1])
    if match := _MESH_GROUPS.search(line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        # Each part is an axis, or a part of one.
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    return 2
