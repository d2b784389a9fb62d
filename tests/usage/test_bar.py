"""What takes long with a finished run shows a bar on a terminal, and nothing elsewhere."""

import re

import pytest
from terminal_support import run_in_terminal

from gpt1_jax.usage.bar import bar, within

PROGRAM = """
import time
from gpt1_jax.usage.bar import bar
with bar("measuring") as watch:
    for done in range(1, 4):
        watch(done, 4)
        time.sleep(0.6)
print("a result")
"""


def test_on_a_terminal_a_bar_says_how_far_it_is_and_goes_when_it_is_done() -> None:
    written = run_in_terminal(PROGRAM, 80)
    drawn = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", part).rstrip() for part in re.split(r"[\r\n]+", written)]
    assert [line for line in drawn if re.fullmatch(r"measuring .+ (25|50|75) % \d:\d\d:\d\d left", line)]
    assert drawn[-2:] == ["a result", ""] and max(map(len, drawn)) <= 80


def test_elsewhere_nothing_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with bar("measuring") as watch:
        watch(1, 2)
    assert capfd.readouterr() == ("", "")


def test_parts_of_a_work_make_one_bar() -> None:
    shares: list[float] = []
    for before, count in ((0, 8), (8, 2)):
        part = within(lambda done, total: shares.append(done / total), before, count, 10)
        part(1, 2)
        part(2, 2)
    assert shares == [0.4, 0.8, 0.9, 1.0]
