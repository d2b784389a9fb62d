"""What `score` reads, a text or a record a line, without holding more than a line at once."""

from collections.abc import Iterator
from typing import IO

from gpt1_jax.disk.inputs import parse_object, text_lines
from gpt1_jax.errors import UserError
from gpt1_jax.usage.windows import Request, check_request


def read_requests(file: IO[bytes], name: str) -> Iterator[Request]:
    """Yields what a file asks to be scored: plain text, a line each, or what JSON objects hold.

    The first line decides. If it is a JSON object with a "text", or a "context" and a "continuation", then all lines
    are. Among them empty lines may only follow the last one, since each line has its answer.

    Args:
        file: the open file.
        name: what the file is called in errors.

    Raises:
        UserError: a line is not UTF-8, or, among JSON objects, not such an object; the error gives its number.
    """
    objects, empty = None, None
    for where, line in text_lines(file, name):
        line = line.removesuffix("\r")
        if objects is None:
            objects = _is_object(line)
        if not objects:
            yield line
        elif not line.strip():
            empty = empty or where
        elif empty:
            raise UserError(
                f"{empty} is empty, and others follow; remove it, since each line has its answer."
            )
        else:
            record = parse_object(line, where)
            try:
                yield check_request(record)
            except UserError as error:
                raise UserError(f"{where}: {error}") from error


def _is_object(line: str) -> bool:
    try:
        check_request(parse_object(line, "The first line"))
    except UserError:
        return False
    return True
