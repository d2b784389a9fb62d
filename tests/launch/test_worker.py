"""worker.sh: the exit codes of a process, and the one that tells a stop from an end."""

import json
import signal
import subprocess
import sys
import time

import pytest
from command_support import ROOT

SAVES = """
import signal, sys, time
def stop(number, frame):
    print("saved", flush=True)
    time.sleep(0.5)
    sys.exit({code})
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(["launch/worker.sh", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("code", [0, 1, 2, 137])
def test_a_code_is_handed_on(code: int) -> None:
    assert start("bash", "-c", f"exit {code}").wait() == code


def test_a_process_that_was_killed() -> None:
    assert start("bash", "-c", "kill -KILL $$").wait() == 128 + signal.SIGKILL


@pytest.mark.parametrize(("code", "told"), [(0, 143), (2, 2), (1, 1)])
@pytest.mark.parametrize("times", [1, 2])  # Slurm signals the child, too
def test_sigterm_is_forwarded_and_told(code: int, told: int, times: int) -> None:
    process = start(sys.executable, "-c", SAVES.format(code=code))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(times):
        process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == told
    assert "saved" in out


def test_a_signal_at_the_very_start() -> None:
    """Whenever it comes, nothing is left behind and the code tells of it."""
    for delay in (0, 0.001, 0.002, 0.004, 0.008):
        process = start("sleep", "60")
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) in (143, -signal.SIGTERM)


def test_arguments_are_not_touched() -> None:
    awkward = ["a b", "it's", '"', "$HOME", "*", "", "\\", "new\nline"]
    out, _ = start(
        sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *awkward
    ).communicate()
    assert json.loads(out) == awkward
