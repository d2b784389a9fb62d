"""How a count stands in a sentence, and a sentence on a terminal."""

import os
import textwrap

# A terminal that says it is narrower says nothing.
_NARROWEST = 20


def counted(number: int, noun: str) -> str:
    """Returns a number and what it counts: "1 step", "1,500 steps", "2 batches"."""
    ending = "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{number:,} {noun}{ending * (number != 1)}"


def fitted(sentence: str) -> str:
    """Returns a sentence for standard error: on a terminal, in lines that end between words."""
    columns = os.get_terminal_size(2).columns if os.isatty(2) else 0
    if columns < _NARROWEST:
        return sentence
    lines = textwrap.wrap(
        sentence,
        columns,
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)
