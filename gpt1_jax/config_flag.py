"""The flag --config of the commands that train: a file, optionally a preset, and keys set on the command line.

    --config=configs/pretrain.py:tiny --config.train.batch_size=16 --config.seed 7

A name without .py, such as pretrain:tiny, means one of the package's own files, wherever the command runs.

Everything is checked against the schema before absl and ml_collections see it, since their errors name no key.
"""

import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from gpt1_jax.errors import UserError
from gpt1_jax.overrides import change, parse_override

NAME = "config"
_HELP = (
    "the config file, or the name of one that comes with the package; behind it, any of its keys can be set"
)
# With this, --help lists the flag under the command that defines it.
flags.disclaim_key_flags()

# The command line after the command's name, once it has been checked.
_given: list[str] = []


def define() -> flags.FlagHolder:
    """Defines the flag for the calling command."""
    flag = config_flags.DEFINE_config_file(NAME, None, _HELP, sys_argv=_given)
    flags.FLAGS[NAME].parser = _FileParser()
    flags.FLAGS[NAME].default_as_str = None
    return flag


def defined() -> bool:
    """Returns whether the running command has the flag."""
    return NAME in flags.FLAGS


def read(flag: flags.FlagHolder) -> dict[str, Any]:
    """Returns the config as dictionaries, including the keys of the command line.

    If the command line sets train.num_steps or train.num_epochs, the other one becomes 0.

    Raises:
        UserError: --config is not given.
    """
    if flag.value is None:
        raise UserError("--config is missing; name a file such as --config=configs/pretrain.py:tiny.")
    return change(flag.value.to_dict(), config_flags.get_override_values(flags.FLAGS[NAME]))


def read_file(spec: str) -> dict[str, Any]:
    """Returns the config that a file gives, or a packaged one, as dictionaries.

    Args:
        spec: what --config would name, FILE.py[:PRESET] or NAME[:PRESET].

    Raises:
        UserError: there is no such file, it fails at some line, or it does not return a ConfigDict.
    """
    return _FileParser().parse(spec).to_dict()


def spec() -> str:
    """Returns what --config names, FILE.py[:PRESET]."""
    return config_flags.get_config_filename(flags.FLAGS[NAME])


def check(arguments: Sequence[str]) -> None:
    """Checks the keys and values on the command line against the schema.

    Args:
        arguments: what follows the command's name, with the contents of each --flagfile in its place.

    Raises:
        UserError: a key or a value is wrong, or two files are given.
    """
    _given[:] = arguments
    overrides = list(_overrides(arguments))
    if len(files := [value for key, value in overrides if not key]) > 1:
        raise UserError(f"--config is given {len(files)} times; name one file.")
    for key, value in overrides:
        if value is None:
            name = f"--{NAME}.{key}" if key else f"--{NAME}"
            raise UserError(f"{name} has no value; write {name}=VALUE.")
        if key:
            parse_override(key, value)


def named_keys() -> list[str]:
    """Returns the keys that the command line sets, even those that the schema does not have."""
    return [key for key, _ in _overrides(_given) if key]


def _overrides(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yields (KEY, VALUE) for each --config.KEY=VALUE; KEY is "" for --config, and VALUE is None if it is missing."""
    for number, argument in enumerate(arguments):
        if argument == "--":
            return
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name.partition(".")[0] == NAME:
            following = arguments[number + 1] if number + 1 < len(arguments) else None
            yield name.partition(".")[2], value if equals else following


class _FileParser(flags.ArgumentParser):
    """Turns FILE.py[:PRESET] into the ConfigDict that the file's get_config returns."""

    def parse(self, argument: str) -> ConfigDict:
        """Runs the file, which is FILE.py or the NAME of a packaged one.

        Raises:
            UserError: there is no such file, it fails at some line, or it does not return a ConfigDict.
        """
        name, colon, preset = argument.partition(":")
        path = str(packaged().get(name, name))
        _check_file(argument, Path(path))
        given = f"--config={argument}"
        try:
            module = ModuleType(f"{NAME}_file")
            sys.modules[module.__name__] = module
            SourceFileLoader(module.__name__, path).exec_module(module)
            config = module.get_config(*[preset] if colon else [])
        except UserError:
            raise
        # The user's own code may raise anything.
        except Exception as error:
            lines = [
                frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path
            ]
            line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
            where = f"line {line} of it" if line else "it"
            raise UserError(
                f"{given} fails: {where} raises {type(error).__name__}: {error}; fix it."
            ) from error
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"{given} returns {config!r}, not an ml_collections.ConfigDict; fix its get_config."
            )
        for key in named_keys():
            if (section := key.partition(".")[0]) not in config:
                raise UserError(
                    f"--config.{key} does not go with {given}, which has no {section}; leave it out."
                )
        return config.lock()

    def flag_type(self) -> str:
        """Returns the type that --help shows."""
        return "FILE.py[:PRESET]"


def packaged() -> dict[str, Path]:
    """Returns the config files that come with the package, by their names without .py."""
    here = Path(__file__).parent
    # A wheel contains them within the package, a clone beside it.
    places = [place for place in (here / "configs", here.parent / "configs") if place.is_dir()]
    return {file.stem: file for place in reversed(places) for file in place.glob("[!_]*.py")}


def _check_file(value: str, file: Path) -> None:
    expected = f"name a Python file such as configs/pretrain.py:tiny, or one of {', '.join(packaged())}."
    try:
        there, regular = file.exists(), file.is_file()
    except OSError as error:
        raise UserError(f"--config={value} cannot be read ({error.strerror}); {expected}") from error
    if file.suffix == ".py" and not there:
        raise UserError(f"--config={value}: {file} does not exist; {expected}")
    if file.suffix != ".py" or not regular:
        raise UserError(f"--config={value} is not a Python file; {expected}")
