"""How every command starts and ends: flags checked before absl sees them, errors in a sentence, exit codes."""

import difflib
import functools
import logging as python_logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from absl import app, flags, logging

from gpt1_jax import config_flag, signals
from gpt1_jax.config import schema
from gpt1_jax.errors import Stopped, UserError
from gpt1_jax.troubles import explain

NONE: Mapping[str, str] = MappingProxyType({})


def door(
    main: Callable[[list[str]], None], positional: Sequence[str] = (), fields: Mapping[str, str] = NONE
) -> None:
    """Runs a command and exits: 0 when it is done, 2 for a UserError, 1 for a fault, 128 + n after signal n.

    Args:
        main: the command; it gets its own name and the arguments that are no flags.
        positional: the names of those arguments.
        fields: the flags whose values errors call by another name, such as {"data.source": "source"}.
    """
    _know_utf8()
    _fill_standard_descriptors()
    _speak_utf8()
    logging.set_verbosity(logging.WARNING)
    for name in ("asyncio", "gcsfs", "fsspec", "urllib3"):  # they log what they raise as well
        python_logging.getLogger(name).setLevel(python_logging.CRITICAL)
    signals.listen()
    os.environ.pop("JAX_ENABLE_X64", None)  # jax is not imported yet; all here is made for 32 bits
    try:
        app.run(main, flags_parser=functools.partial(_parse, positional))
    except Stopped as stop:
        signals.say(str(stop))
        sys.exit(stop.code)
    except BrokenPipeError:  # nobody reads on: `… | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        told = explain(error)
        if told is None:
            raise
        print(f"error: {_as_typed(str(told), fields)}", file=sys.stderr)
        sys.exit(2 if isinstance(told, UserError) else 1)
    finally:
        signals.ignore()


def _know_utf8() -> None:
    """Starts the command over where Python takes all but ASCII for unreadable, in arguments and the names of files.

    It does so by LC_ALL=C and PYTHONUTF8=0; what a user types, and what a run has written, is UTF-8 all the same.
    """
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1" and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _fill_standard_descriptors() -> None:
    """Puts the null device where a standard stream is closed, so that no file or pipe takes its number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _speak_utf8() -> None:
    """Reads and writes UTF-8 as all files here are, whatever the locale says, except to a terminal that cannot show it.

    What has no UTF-8, or no sign on the terminal, is written as its number, so that writing never fails.
    """
    streams: list[Any] = [sys.stdin, sys.stdout, sys.stderr]
    if sys.stdin is not None:
        streams[0].reconfigure(encoding="utf-8", errors="strict", newline="\n")
    for stream in streams[1:]:
        if stream is not None:
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


class _ShortHelp(app.HelpshortFlag):
    """-h, as --help."""

    NAME = "h"


def _parse(positional: Sequence[str], argv: list[str]) -> list[str]:
    """The arguments that are no flags, behind the command's name."""
    flags.DEFINE_flag(_ShortHelp())
    try:
        arguments = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
        if config_flag.defined():
            config_flag.check(arguments)
        rest = flags.FLAGS(argv)
    except SystemExit:  # --help, which has told what there is
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        raise UserError(
            f"--{error.flagname} is no flag of this command; {_suggest(error.flagname)}"
        ) from error
    except flags.IllegalFlagValueError as error:
        raise UserError(_illegal(str(error))) from error
    except (flags.Error, UnicodeDecodeError) as error:  # the latter: of a --flagfile
        reason = str(error).removeprefix("ERROR:: ")
        raise UserError(f"The flags cannot be read: {reason}; --help lists them.") from error
    surplus, missing = rest[1 + len(positional) :], positional[len(rest) - 1 :]
    if surplus:
        name = surplus[0].partition("=")[0]
        hint = _suggest(name) if "=" in surplus[0] else "write --flag=value."
        raise UserError(f"The argument {surplus[0]!r} belongs to no flag; {hint}")
    if missing:
        raise UserError(
            f"There is no {' and no '.join(missing)}; write {' '.join(positional)} behind the flags."
        )
    return rest


def _suggest(name: str) -> str:
    """What a name that is no flag may stand for: a key of the config, or a flag that is spelled like it."""
    if name.startswith("config.") and config_flag.defined() and flags.FLAGS[config_flag.NAME].value is None:
        return "name the file it changes with --config=FILE.py in front of it."
    known = {flag: flag for flag in flags.FLAGS}
    if config_flag.defined():
        for key in schema():
            known |= dict.fromkeys((f"config.{key}", key, key.rpartition(".")[2]), f"config.{key}")
    nearest = difflib.get_close_matches(name.lstrip("-"), known, n=1, cutoff=0.7)
    return f"did you mean --{known[nearest[0]]}?" if nearest else "--help lists the flags."


def _illegal(message: str) -> str:
    """What absl says of a flag's wrong value, in our words."""
    found = re.fullmatch(r"flag --(\w+)=(.*?): (.*)", message, re.DOTALL)
    if found is None or found[1] not in flags.FLAGS:
        return f"{message}; --help lists the flags."
    flag = flags.FLAGS[found[1]]
    if isinstance(flag.parser, flags.EnumParser):
        expected = f"one of {', '.join(flag.parser.enum_values)}"
    else:
        expected = "true or false" if flag.boolean else flag.parser.syntactic_help or found[3]
    return f"--{found[1]}={found[2]} is not {expected}; set it to that."


def _as_typed(message: str, fields: Mapping[str, str]) -> str:
    """A message that calls settings by their flags: --config.data.source, or --source, for data.source.

    A flag whose name may be a word of English counts as the word, unless it is given and = follows.
    """
    names = {flag: flag for flag in flags.FLAGS if "_" in flag}
    names |= {name: flag for name, flag in fields.items() if flags.FLAGS[flag].value is not None}
    if config_flag.defined():
        names |= {key: f"config.{key}" for key in config_flag.named_keys()}
        names |= {f"config.{key}": f"config.{key}" for key in (*config_flag.named_keys(), *schema())}
    given = [name for name in flags.FLAGS if flags.FLAGS[name].present]
    patterns = (rf"(?<![\w./'-])({_any(names)})(?!\w|\.\w)", rf"(?<![\w./'-])({_any(given)})(?==)")
    for pattern in patterns:
        message = re.sub(pattern, lambda found: f"--{names.get(found[1], found[1])}", message)
    return message


def _any(words: Iterable[str]) -> str:
    """A pattern of any of these words; of none it fits nothing."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) or "(?!)"
