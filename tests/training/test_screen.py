"""What a training shows: a bar below lasting lines on a terminal, plain lines elsewhere."""

import re

import pytest
from terminal_support import run_in_terminal

from gpt1_jax.training.plan import spell_seconds
from gpt1_jax.training.screen import Screen, describe_metrics

LOGGED = {
    "loss": 2.5,
    "perplexity": 27.1,
    "task_loss": 0.75,
    "lm_loss": 3.3,
    "learning_rate": 6.25e-5,
    "grad_norm": 1.234,
    "tokens_per_second": 123_456.0,
    "seconds_per_step": 2.0,
}
PROGRAM = f"""
import time
from gpt1_jax.training.screen import Screen
screen = Screen(0, 1500)
screen.tell("run      runs/one, a new run")
with screen.during("compiling"):
    time.sleep(1.2)
for step in range(1, 4):
    time.sleep(0.6)
    screen.advance(step, {{"loss": 7 - step}}, {{"tokens_per_second": 12345.0, "mfu": 0.43}})
    screen.tell_step(step, {LOGGED})
screen.close()
"""


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_stay_above_a_bar_of_one_line_that_says_what_is_done_now(columns: int) -> None:
    written = run_in_terminal(PROGRAM, columns)
    drawn = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", part) for part in re.split(r"[\r\n]+", written)]
    assert max(map(len, drawn)) <= columns
    lines = [line.rstrip() for line in drawn]
    assert "run      runs/one, a new run" in lines
    assert any(re.search(r"step 0/1500 .* compiling 0:00:0", line) for line in lines)
    logged = [line for line in lines if "L2 0.7500  L1 3.3000 (perplexity 27.1)" in line]
    assert [line.partition("/")[0] for line in logged] == ["step 1", "step 2", "step 3"]
    bars = [line for line in lines if "12,345 tokens/s  MFU 43%" in line]
    assert any("loss 5.0000" in line and re.search(r"\d:\d\d:\d\d left$", line) for line in bars)


def test_a_terminal_that_cannot_draw_gets_plain_lines() -> None:
    written = run_in_terminal(PROGRAM, 80, kind="dumb")
    assert "\x1b" not in written and written.count("gradient norm 1.23") == 3


def test_elsewhere_lines_are_plain_and_have_all_that_a_bar_would_show(
    capfd: pytest.CaptureFixture[str],
) -> None:
    screen = Screen(0, 1500)
    with screen.during("compiling"):
        pass
    screen.advance(1, {"loss": 2.5}, {})
    screen.tell_step(1, LOGGED)
    screen.close()
    written = capfd.readouterr().out
    assert written.isprintable() or written.removesuffix("\n").isprintable()
    assert written.startswith(
        "step 1/1500  loss 2.5000  L2 0.7500  L1 3.3000 (perplexity 27.1)  learning rate 6.3e-05"
    )
    assert written.endswith("gradient norm 1.23  123,456 tokens/s  0:49:58 left\n")


def test_ctrl_c_on_a_terminal_is_answered_at_once_in_the_place_of_the_bar() -> None:
    """The process may need a moment more to end, say to leave a compiler."""
    program = """
import os, signal, time
from gpt1_jax.door import door
def main(_):
    print("a bar", end="", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
door(main)
"""
    written = run_in_terminal(program, 80)
    answer, _, end = written.partition("\r\x1b[KCtrl-C: stopping …")
    assert answer == "a bar" and "Stopped by Ctrl-C before there was anything new to save" in end


def test_a_lone_loss_needs_no_name_and_the_perplexity_stands_behind_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Screen(0, 9).tell_step(1, {"loss": 4.7664, "perplexity": 117.5})
    Screen(0, 9).tell_step(2, {"loss": 0.5, "task_loss": 0.5})
    assert capfd.readouterr().out == "step 1/9  loss 4.7664 (perplexity 117.5)\nstep 2/9  loss 0.5000\n"


def test_what_was_measured_is_told_in_words() -> None:
    measured = {"loss": 4.21361, "perplexity": 67.6, "bits_per_byte": 1.58012, "examples": 12345}
    assert describe_metrics(measured) == "loss 4.2136  perplexity 67.6  bits per byte 1.58  examples 12,345"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.2, "about 1 second"),
        (89, "about 89 seconds"),
        (151, "about 2.5 minutes"),
        (420, "about 7 minutes"),
        (1500, "about 25 minutes"),
        (3600 * 3.52, "about 3.5 hours"),
        (3600 * 30, "about 30 hours"),
        (86400 * 9, "about 9 days"),
    ],
)
def test_an_estimate_of_time_is_a_rough_word(seconds: float, told: str) -> None:
    assert spell_seconds(seconds) == told
