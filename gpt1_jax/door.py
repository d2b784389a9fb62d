"""How every command starts and ends: it checks flags before absl does, says errors in a sentence, sets exit codes."""

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
from gpt1_jax.help import describe_command
from gpt1_jax.troubles import explain
from gpt1_jax.wording import fitted

NONE: Mapping[str, str] = MappingProxyType({})


def door(
    main: Callable[[list[str]], None],
    positional: Sequence[str] = (),
    fields: Mapping[str, str] = NONE,
    more: Callable[[], str] = str,
) -> None:
    """Runs a command and exits: with 0 when it is done, 2 for a UserError, 1 for a fault, 128 + n after signal n.

    Args:
        main: the command, which receives its own name and the positional arguments.
        positional: the names of the positional arguments; one that ends with … may be given more than once.
        fields: flags for settings that errors know by another name, such as {"data.source": "source"}.
        more: what --help says after the flags.
    """
    _know_utf8()
    _fill_standard_descriptors()
    _speak_utf8()
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().setFormatter(_Plain())
    # These loggers also print what they raise.
    for name in ("asyncio", "gcsfs", "fsspec", "urllib3"):
        python_logging.getLogger(name).setLevel(python_logging.CRITICAL)
    signals.listen()
    # jax is not imported yet; this package is made for 32 bits.
    os.environ.pop("JAX_ENABLE_X64", None)
    try:
        _define_help(main.__globals__["__doc__"] or "", more)
        app.run(main, flags_parser=functools.partial(_parse, positional))
    except Stopped as stop:
        signals.say(str(stop))
        sys.exit(stop.code)
    # The reader is gone, as in `… | head -1`. Python may still flush something, which goes to the null device.
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        print(fitted(f"error: {_as_typed(str(known), fields)}"), file=sys.stderr)
        sys.exit(2 if isinstance(known, UserError) else 1)
    finally:
        signals.ignore()


def _know_utf8() -> None:
    """Restarts the command if Python would read arguments and names of files as ASCII.

    Python does so under LC_ALL=C with PYTHONUTF8=0, but what users type and what runs have written is UTF-8.
    """
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1" and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _fill_standard_descriptors() -> None:
    """Opens the null device for each closed standard stream, so that no file or pipe takes its number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # open() takes the lowest number that is free.
            os.open(os.devnull, os.O_RDWR)


def _speak_utf8() -> None:
    """Makes standard streams use UTF-8 whatever the locale, except towards a terminal that cannot show it.

    A character that cannot be written appears as its number, so writing never fails.
    """
    streams: list[Any] = [sys.stdin, sys.stdout, sys.stderr]
    if sys.stdin is not None:
        streams[0].reconfigure(encoding="utf-8", errors="strict", newline="\n")
    for stream in streams[1:]:
        if stream is not None:
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


class _Plain(python_logging.Formatter):
    """What is logged as a user reads it: "warning: …", without the time and the line of the code."""

    def format(self, record: python_logging.LogRecord) -> str:
        """Returns the line."""
        return fitted(f"{record.levelname.lower()}: {super().format(record)}")


class _Help(flags.BooleanFlag):
    """A flag that prints the command's help and ends it."""

    def __init__(self, name: str, page: Callable[[], str]) -> None:
        self._page = page
        super().__init__(name, False, "prints this page", allow_override=True)

    def parse(self, argument: Any) -> None:
        """Prints the page if the flag is given."""
        if self._parse(argument):
            # `… --help | head` should end as other programs do.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            print(self._page())
            sys.exit(0)


def _define_help(about: str, more: Callable[[], str]) -> None:
    """Defines --help and the other spellings that people try; --helpfull stays absl's, with the libraries' flags."""
    app.define_help_flags()
    for name in ("help", "helpshort", "h", "?"):
        flags.DEFINE_flag(
            _Help(name, lambda: describe_command(about, sys.argv[0], more())), module_name="absl.app"
        )


def _parse(positional: Sequence[str], argv: list[str]) -> list[str]:
    """Returns the command's name and its positional arguments."""
    try:
        arguments = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
        if config_flag.defined():
            config_flag.check(arguments)
        rest = flags.FLAGS(argv)
    # --help has been printed.
    except SystemExit:
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        raise UserError(
            f"--{error.flagname} is not a flag of this command; {_suggest(error.flagname)}"
        ) from error
    except flags.IllegalFlagValueError as error:
        raise UserError(_illegal(str(error))) from error
    # A --flagfile may not be UTF-8.
    except (flags.Error, UnicodeDecodeError) as error:
        reason = str(error).removeprefix("ERROR:: ")
        raise UserError(f"The flags cannot be read: {reason}; --help lists them.") from error
    surplus, missing = rest[1 + len(positional) :], positional[len(rest) - 1 :]
    if positional and positional[-1].endswith("…"):
        surplus = []
    if surplus:
        name = surplus[0].partition("=")[0]
        hint = _suggest(name) if "=" in surplus[0] else "write --flag=value."
        raise UserError(f"The argument {surplus[0]!r} belongs to no flag; {hint}")
    if missing:
        names = " and ".join(name.rstrip("…") for name in missing)
        verb = "are" if len(missing) > 1 else "is"
        raise UserError(f"{names} {verb} missing; write {' '.join(positional)} behind the command.")
    return rest


def _suggest(name: str) -> str:
    """Suggests what an unknown flag may stand for: a key of the config, or a flag with a similar name."""
    if name.startswith("config.") and config_flag.defined() and flags.FLAGS[config_flag.NAME].value is None:
        return "name the file that it changes with --config=FILE.py in front of it."
    known = {flag: flag for flag in flags.FLAGS}
    if config_flag.defined():
        for key in schema():
            known |= dict.fromkeys((f"config.{key}", key, key.rpartition(".")[2]), f"config.{key}")
    nearest = difflib.get_close_matches(name.lstrip("-"), known, n=1, cutoff=0.7)
    return f"did you mean --{known[nearest[0]]}?" if nearest else "--help lists the flags."


def _illegal(message: str) -> str:
    """Says in our words what absl says about a flag's wrong value."""
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
    """Replaces the names of settings in a message by their flags, such as --config.data.source or --source.

    A flag whose name may be an English word counts as the word, unless the flag was given and = follows.
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
    """Returns a pattern that matches any of these words, or nothing if there are none."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) or "(?!)"
