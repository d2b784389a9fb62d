"""What takes long with a finished run shows a bar on a terminal, and nothing elsewhere."""

import re

import pytest
from terminal_support import run_in_terminal

from gpt1_jax.usage.bar import bar

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
