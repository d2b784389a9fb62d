"""What `--help` of a command and the list of commands say, in lines that fit 80 columns."""

import ast
import runpy
import textwrap
from collections.abc import Iterable
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from absl import flags

from gpt1_jax.config import schema
from gpt1_jax.keys import Key

_COLUMNS = 80


def describe_command(about: str, command: str, more: str) -> str:
    """Returns what --help says.

    Args:
        about: the docstring of the command's module.
        command: how the command was called, by which absl knows its flags.
        more: what follows the flags.
    """
    own = flags.FLAGS.get_key_flags_for_module(command)
    listed = [_describe_flag(flag) for flag in sorted(own, key=lambda flag: flag.name)]
    head = "\n".join(_wrap(about.splitlines()[0] if about else ""))
    return "\n\n".join(filter(None, (head, "\n".join(["Flags:", *listed]), more.strip())))


def describe_settings() -> str:
    """Returns the keys of the config, with type, default and meaning, and the presets of pre-training."""
    lines = [
        "Keys of the config. Any of them can be set behind --config; the defaults shown",
        "are those of pre-training, the paper's where it says so.",
    ]
    section = None
    for key in schema().values():
        if (prefix := key.name.rpartition(".")[0]) != section:
            section = prefix
            lines.append("")
        lines += _entry(f"config.{key.name}", key.default, describe_values(key), key.help)
    return "\n".join([*lines, "", "Presets: --config=pretrain, or --config=pretrain:PRESET", *list_presets()])


def describe_tasks() -> str:
    """Returns the names of the tasks by their kinds."""
    return "\n".join(["Tasks: --config=finetune:TASK --config.init_from=RUN", *list_tasks()])


def list_presets() -> list[str]:
    """Returns a line for each preset of pre-training."""
    from gpt1_jax.config_flag import packaged

    presets: dict[str, Any] = runpy.run_path(str(packaged()["pretrain"]))["PRESETS"]
    return _table({name or "(none)": preset.__doc__.splitlines()[0] for name, preset in presets.items()})


def list_tasks() -> list[str]:
    """Returns a line for each kind of task with the names of its tasks."""
    from gpt1_jax.tasks.catalog import CATALOG, ZERO_SHOT_ONLY
    from gpt1_jax.tasks.lambada import NAME

    kinds: dict[str, list[str]] = {}
    for name, task in CATALOG.items():
        if name != "custom" and name not in ZERO_SHOT_ONLY:
            kinds.setdefault(task.kind, []).append(name)
    listed = {kind: " ".join(names) for kind, names in kinds.items()}
    listed["any kind"] = "custom (your own; --config.finetune.kind names the kind)"
    listed["zero-shot"] = f"{' '.join([NAME, *ZERO_SHOT_ONLY])} (gpt1 evaluate --zero_shot=TASK)"
    return _table(listed)


def list_commands(commands: dict[str, str]) -> list[str]:
    """Returns a line for each command: its name, and the first sentence of its module without the command line."""
    described = {}
    for name, module in commands.items():
        source = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
        described[name] = (ast.get_docstring(ast.parse(source)) or "").partition(": ")[0]
    return _table(described)


def describe_values(key: Key) -> str:
    """Returns what a key accepts: a type with its limits, or the values to choose from."""
    names = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    words = _either(key.choices) if key.choices else names[key.kind]
    for limits in key.ranges:
        words += f" ≥ {limits.minimum:g}" + (f" and < {limits.below:g}" if limits.below <= 1 else "")
    return f"{words}, or none" if key.optional else words


def _describe_flag(flag: flags.Flag) -> str:
    if flag.boolean:
        kind = "true or false"
    elif isinstance(flag.parser, flags.EnumParser):
        kind = _either(flag.parser.enum_values)
    else:
        kind = {"int": "whole number", "float": "number", "string": "text"}.get(flag.flag_type(), "")
        kind = kind or flag.flag_type()
    # absl puts the values of a choice in front.
    about = (flag.help or "").partition(">: ")
    return "\n".join(_entry(flag.name, flag.default, kind, about[2] or about[0]))


def _entry(name: str, default: Any, kind: str, about: str) -> list[str]:
    shown = "" if default in (MISSING, None) else str(default)
    if isinstance(default, bool):
        shown = shown.lower()
    return [f"  --{name}={shown}", *_wrap(f"{kind}: {about}", "      ")]


def _either(values: Iterable[str]) -> str:
    *others, last = values
    return f"{', '.join(others)} or {last}" if others else last


def _table(rows: dict[str, str]) -> list[str]:
    """Returns a line for each row; one that is too long ends before a comma."""
    width = max(map(len, rows)) + 4
    lines = []
    for name, text in rows.items():
        line = f"{'  ' + name:{width}}{text.rstrip('.')}"
        while len(line) > _COLUMNS and "," in line:
            line = line.rpartition(",")[0]
        lines.append(line)
    return lines


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        _COLUMNS,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
