"""What is installed: the commands by name, and the config files beside the code."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gpt1_jax import lm_eval
from gpt1_jax.__main__ import COMMANDS, describe
from gpt1_jax.config_flag import packaged
from gpt1_jax.tasks.catalog import CATALOG

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def call(*arguments: str, directory: Path = ROOT) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gpt1_jax", *arguments],
        cwd=directory, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_every_module_that_is_a_command_has_a_name() -> None:
    commands = {path.stem for path in (ROOT / "gpt1_jax").glob("*.py") if "    door(main" in path.read_text()}
    assert set(COMMANDS.values()) == commands


def test_without_a_name_there_is_a_list_of_commands_presets_and_tasks() -> None:
    told = describe()
    assert all(f"\n  {name} " in told for name in COMMANDS)
    assert "(none)" in told and "\n  tiny " in told and "\n  small " in told
    assert not any(line.startswith("   ") for line in told.splitlines())  # a line each
    assert all(task in told.split() for task in CATALOG)


def test_a_command_by_its_name_is_the_module() -> None:
    code, out, err = call("tokenize")
    assert (code, out) == (2, "") and "--workdir=RUN" in err
    code, _, err = call("trane")
    assert code == 2 and "no command 'trane'" in err and "train" in err


@pytest.mark.parametrize("name", ["pretrain:tiny", "finetune:cola"])
def test_a_config_is_found_by_its_name_from_any_directory(name: str, tmp_path: Path) -> None:
    """The error about an unknown key shows that the file was found and run."""
    code, _, err = call("train", f"--config={name}", "--config.train.num_stepz=1", directory=tmp_path)
    assert code == 2 and "train.num_stepz" in err
    code, _, err = call("train", "--config=pretrain:tinny", directory=tmp_path)
    assert code == 2 and "tinny" in err and "tiny" in err


def test_without_its_extra_the_harness_is_asked_for_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # None stands for a module that is not there.
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SystemExit) as ended:
        lm_eval.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: lm_eval is not installed; install the extra: pip install 'gpt1_jax[lm_eval]'.\n"
    )


def test_the_wheel_has_every_room_and_the_config_files() -> None:
    setup = PROJECT["tool"]["setuptools"]
    rooms = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "gpt1_jax").rglob("__init__.py")
    }
    assert set(setup["packages"]) == rooms | {"gpt1_jax.configs"}
    assert setup["package-dir"] == {"gpt1_jax.configs": "configs"}
    assert (
        set(packaged()) == {path.stem for path in (ROOT / "configs").glob("*.py")} >= {"pretrain", "finetune"}
    )
    assert (ROOT / "gpt1_jax" / "py.typed").exists() and "py.typed" in setup["package-data"]["gpt1_jax"]


def test_no_two_commands_meet_in_a_process_of_tests() -> None:
    """Importing one defines its flags, which clash with another's; the second stands in a process of its own."""
    for path in (ROOT / "tests").rglob("*.py"):
        found = re.findall(r"^from gpt1_jax\.(\w+) import", path.read_text(), re.MULTILINE)
        commands = [name for name in found if name in COMMANDS.values()]
        assert commands in ([], ["main"]), path
