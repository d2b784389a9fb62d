"""How every command starts and ends: flags checked before absl sees them, errors in a sentence, exit codes."""

import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from absl import app, flags, logging

from gpt1_jax.config import parse_override
from gpt1_jax.errors import WRONG_PATHS, Fault, UserError


def door(main: Callable[[list[str]], None], positional: Sequence[str] = ()) -> None:
    """Runs a command and exits: 0 when it is done, 2 for a UserError, 1 for anything else.

    `positional` names the arguments that the command takes beside its flags: `main` gets them behind its own name.
    """
    logging.set_verbosity(logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)  # training takes over with its own handler
    try:
        app.run(main, flags_parser=functools.partial(_parse, positional))
    except (UserError, Fault) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except WRONG_PATHS as error:
        print(
            f"error: {error.filename}: {error.strerror}; name another path or mend this one.", file=sys.stderr
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads on: `… | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes
        sys.exit(128 + signal.SIGPIPE)


def _stop(number: int, frame: FrameType | None) -> None:
    print("Stopped before there was anything new to save; run the same command again.", file=sys.stderr)
    sys.exit(0)


def _parse(positional: Sequence[str], argv: list[str]) -> list[str]:
    _check_config_flags(argv[1:])
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError) as error:  # the latter: a config file without get_config
        raise UserError(f"{error}; --help lists the flags.") from error
    surplus, missing = rest[1 + len(positional) :], positional[len(rest) - 1 :]
    if surplus:
        raise UserError(f"The argument {surplus[0]!r} belongs to no flag; write --flag=value.")
    if missing:
        raise UserError(
            f"There is no {' and no '.join(missing)}; write {' '.join(positional)} behind the flags."
        )
    return rest


def _check_config_flags(arguments: list[str]) -> None:
    """Refuses a config file that is not there, and overrides the schema does not know."""
    for number, argument in enumerate(arguments):
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name.partition(".")[0] != "config":
            continue
        if not equals:
            following = arguments[number + 1 : number + 2]
            if not following:
                raise UserError(f"--{name} has no value; write --{name}=VALUE.")
            value = following[0]
        if name != "config":
            parse_override(name.removeprefix("config."), value)
        elif not (file := Path(value.partition(":")[0])).is_file() or file.suffix != ".py":
            raise UserError(f"--config={value} is no Python file; name one such as configs/pretrain.py:tiny.")
