"""Lines of standard input, as the commands that read texts get them."""

import sys
from collections.abc import Iterator

from gpt1_jax.errors import UserError

_MOST_BYTES = 2**26  # of a line: more is a device or a wrong file, not a text that somebody wrote


def read_lines() -> Iterator[str]:
    """The lines, without what ends them, each as soon as it is there; a byte-order mark before the first is left out.

    Raises:
        UserError: a line is not UTF-8 or has no end, or there is no standard input.
    """
    if sys.stdin is None:
        raise UserError("There is no standard input; give one, such as `< FILE`.")
    number = 0
    while line := _read_line(number := number + 1):
        yield line.removesuffix("\n")


def _read_line(number: int) -> str:
    try:
        line = sys.stdin.buffer.readline(_MOST_BYTES)
    except OSError as error:
        raise UserError(f"Standard input cannot be read ({error.strerror}); give a file of text.") from None
    if len(line) == _MOST_BYTES and not line.endswith(b"\n"):
        raise UserError(
            f"Line {number} of standard input has no end within {_MOST_BYTES:,} bytes; give a file of text."
        )
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"Line {number} of standard input is not UTF-8 ({error.reason} at byte {error.start + 1}); convert it, "
            "say with iconv."
        ) from None
