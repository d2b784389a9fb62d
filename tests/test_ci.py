"""What `.ci/run` does, and what it installs from."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Makes a virtualenv whose commands only tell how they were called.
PYTHON = """#!{bash}
echo "${{PIP_CONSTRAINT:-free}} $0 $*" >> {log}
if [ "$2" = venv ]; then
    mkdir -p "$3/bin"
    echo "PATH=$3/bin:$PATH" > "$3/bin/activate"
    for name in python3 ruff pyright mkdocs; do cp {here}/python3 "$3/bin/$name"; done
fi
"""


def run_ci(directory: Path) -> list[tuple[str, str]]:
    """The commands that .ci/run calls, each with the constraints it would install from."""
    here, log = directory / "stand-ins", directory / "log"
    here.mkdir()
    (here / "python3").write_text(PYTHON.format(bash=shutil.which("bash"), log=log, here=here))
    (here / "python3").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment["PATH"] = f"{here}:{environment['PATH']}"
    subprocess.run([ROOT / ".ci" / "run"], env=environment, check=True, capture_output=True, timeout=60)
    lines = [line.split(" ", 2) for line in log.read_text().splitlines()]
    return [(constraints, f"{Path(program).name} {rest}") for constraints, program, rest in lines]


def test_it_runs_the_readme_lint_types_documents_and_all_but_the_hours_long_tests(tmp_path: Path) -> None:
    calls = run_ci(tmp_path)
    commands = [command for _, command in calls]
    assert "python3 -m gpt1_jax.main --config=configs/pretrain.py:tiny" in commands
    for command in ("python3 -m pytest", "python3 -m pytest -m slow", "ruff check", "pyright "):
        assert command in commands
    assert "mkdocs build --strict" in commands


def test_all_it_installs_has_a_known_version(tmp_path: Path) -> None:
    installs = [
        (constraints, command) for constraints, command in run_ci(tmp_path) if "pip install" in command
    ]
    assert len(installs) == 5
    assert {constraints for constraints, _ in installs} == {str(ROOT / "constraints.txt")}
    pins = read_pins()
    for _, command in installs:
        for name in re.findall(r"(?<= )[a-z]\S*(?= |$)", command.split("pip install")[1]):
            assert name in pins, command


def read_pins() -> dict[str, str]:
    """The versions in constraints.txt: of each line one release, of no index of its own."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines if not line.startswith("#")]
    assert all(found)
    return {canonicalize_name(pin[1]): pin[2] for pin in found if pin}


def test_the_known_versions_fit_what_the_project_asks_for() -> None:
    pins = read_pins()
    extras = PROJECT["optional-dependencies"]
    own = ("test", "demo", "beam", "original", "stablehlo", "lm_eval")
    asked = [*PROJECT["dependencies"], *(text for name in own for text in extras[name])]
    for text in asked:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name != "gpt1-jax":
            assert requirement.specifier.contains(pins[name]), text
