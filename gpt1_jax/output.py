"""What a command prints while it works."""

import os
import sys

from gpt1_jax import signals


def print_line(sentence: str) -> None:
    """Prints a line, which is lost if nobody reads any more, say behind a closed pipe."""
    try:
        print(sentence, flush=True)
    except (OSError, ValueError) as error:
        lose_output(error)


def lose_output(error: BaseException) -> None:
    """Sends all further output nowhere, and says so."""
    signals.say(f"warning: standard output is gone ({error}); the training goes on without it.")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = os.fdopen(1, "w", closefd=False)
