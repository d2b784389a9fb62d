"""What holds for every script: linted, executable, its help complete, nothing traced that could be secret."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launch_support import LAUNCH

SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"]
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)


def lint(tool: str, *arguments: Path | str) -> None:
    found = shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed (extra test)")
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@each
def test_shellcheck_is_content(script: Path) -> None:
    lint("shellcheck", "--enable=quote-safe-variables", script)


def test_hadolint_is_content() -> None:
    lint("hadolint", LAUNCH / "Dockerfile")


@each
def test_it_is_a_program(script: Path) -> None:
    text = script.read_text()
    assert script.stat().st_mode & 0o111
    assert text.startswith("#!/usr/bin/env bash\n")
    assert re.search(r"^set -e?uo pipefail$", text, re.MULTILINE)


@each
def test_nothing_is_traced(script: Path) -> None:
    """No -x, no list of the environment: what is secret stays where it is."""
    assert not re.search(
        r"set -\w*x|\bprintenv\b|\bdeclare -p\b|\bexport -p\b|^\s*env\s*$", script.read_text(), re.MULTILINE
    )


@pytest.mark.parametrize(
    "script", [x for x in SCRIPTS if "--help" in x.read_text()], ids=lambda path: path.name
)
def test_help_has_every_flag(script: Path) -> None:
    out = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, check=True).stdout
    flags = re.findall(r"^    (--\w\w+)=?\*?\)", script.read_text(), re.MULTILINE)
    assert len(flags) >= 3
    for flag in flags:
        assert flag == "--help" or f"  {flag}" in out
    assert not out.startswith("#") and "set -" not in out
