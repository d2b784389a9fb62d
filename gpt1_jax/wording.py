"""How a count stands in a sentence."""


def counted(number: int, noun: str) -> str:
    """Returns a number and what it counts: "1 step", "1,500 steps", "2 batches"."""
    ending = "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{number:,} {noun}{ending * (number != 1)}"
