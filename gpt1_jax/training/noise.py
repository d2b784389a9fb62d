"""Suppresses the pages that orbax and its helpers print about errors that they raise as well.

Where it matters, a sentence reports a damaged checkpoint or a full disk.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import logging as absl_logging

_LIBRARY = f"{os.sep}orbax{os.sep}"


def keep_back() -> None:
    """Suppresses these messages from now on, in this process."""
    absl_logging.get_absl_logger().addFilter(_is_not_orbaxs)
    logging.getLogger("asyncio").addFilter(_is_not_orbaxs)
    sys.unraisablehook = _without_orbaxs(sys.unraisablehook)


def _is_not_orbaxs(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return _LIBRARY not in record.pathname and not _comes_from_orbax(error)


def _without_orbaxs(hook: Callable[[Any], object]) -> Callable[[Any], None]:
    """A hook for errors that cannot be raised, such as those of coroutines that nobody awaits."""

    def filtered(unraisable: Any) -> None:
        if not _comes_from_orbax(unraisable.exc_value):
            hook(unraisable)

    return filtered


def _comes_from_orbax(error: BaseException | None) -> bool:
    """Returns whether orbax raised an error, or an event loop that orbax has already closed."""
    if error is None:
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return any(_LIBRARY in frame.filename for frame in frames) or str(error) == "Event loop is closed"
