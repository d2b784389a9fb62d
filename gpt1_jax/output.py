"""What a command prints while it works."""

import os
import sys

from gpt1_jax import signals


def print_line(sentence: str) -> None:
    """Prints a line for whoever watches; where nobody does any more, as behind a closed pipe, it is lost."""
    try:
        print(sentence, flush=True)
    except (OSError, ValueError) as error:
        lose_output(error)


def lose_output(error: BaseException) -> None:
    """Sends what is still printed nowhere, and says so."""
    signals.say(f"warning: standard output is gone ({error}); the training goes on without it.")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = os.fdopen(1, "w", closefd=False)
