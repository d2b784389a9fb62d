"""The benchmarks' harness computes what it says, and each benchmark runs at its smallest."""

import json
from collections.abc import Callable
from dataclasses import asdict

import pytest

from benchmarks.timing import Spread, conclude, measure


class Clock:
    """Moves only when a side works; remembers who worked."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def side(self, name: str, *seconds: float) -> Callable[[], None]:
        """A side that takes so long in each call, the last ones over and over."""
        left = list(seconds)

        def work() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work


def test_ratios_are_taken_round_by_round() -> None:
    clock = Clock()
    # Call by call, each machine's disturbance slows both sides of a round; the first call warms up.
    sides = {"ours": clock.side("ours", 100, 1, 2, 10), "theirs": clock.side("theirs", 100, 2, 4, 30)}
    ours, theirs = measure(sides, rounds=3, work=60, unit="tokens", clock=clock)
    assert ours.seconds == Spread(2, 1, 10)
    assert ours.speed == Spread(30, 6, 60)
    assert ours.first_is == Spread(1, 1, 1)
    assert theirs.seconds == Spread(4, 2, 30)
    assert theirs.first_is == Spread(2, 2, 3)
    assert (ours.rounds, theirs.rounds, theirs.first) == (3, 3, "ours")


def test_sides_take_turns_in_alternating_order() -> None:
    clock = Clock()
    measure({"a": clock.side("a", 1), "b": clock.side("b", 1)}, rounds=3, clock=clock)
    assert "".join(clock.calls) == "ab" + "ab" + "ba" + "ab"
    clock.calls.clear()
    measure({"a": clock.side("a", 1), "b": clock.side("b", 1)}, rounds=1, warm_up=False, clock=clock)
    assert "".join(clock.calls) == "ab"


def test_slow_sides_take_part_in_fewer_rounds() -> None:
    clock = Clock()
    sides = {"ours": clock.side("ours", 1, 3, 5), "slow": clock.side("slow", 6), "never": clock.side("n", 1)}
    rows = measure(sides, {"ours": 3, "slow": 1, "never": 0}, warm_up=False, clock=clock)
    assert [row.side for row in rows] == ["ours", "slow"]
    assert rows[0].seconds == Spread(3, 1, 5)
    assert rows[1].first_is == Spread(6, 6, 6)  # against the round it took part in
    assert "n" not in clock.calls


def test_sides_may_do_different_work() -> None:
    clock = Clock()
    sides = {"batches": clock.side("batches", 2), "step": clock.side("step", 2)}
    batches, step = measure(sides, 1, {"batches": 100, "step": 4}, "tokens", clock=clock)
    assert (batches.speed.median, step.speed.median, step.first_is.median) == (50, 2, 25)
    assert str(batches) == "batches                 50 tokens/s  (2 to 2 s)"
    assert str(step).endswith("2 tokens/s  (2 to 2 s)  batches is 25.00 (25.00 to 25.00) times as fast")


def test_the_last_line_is_json_with_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure({"a": lambda: None}, rounds=1)
    conclude(rows=[asdict(row) for row in rows], preset="tiny")
    found = json.loads(capsys.readouterr().out)
    assert found["preset"] == "tiny"
    assert found["rows"][0]["seconds"].keys() == {"median", "low", "high"}
    assert found["machine"].keys() >= {"command", "processor", "cores", "python", "jax", "torch"}
