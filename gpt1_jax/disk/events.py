"""TensorBoard's events, by tensorboardX, which would import torch for 2.5 seconds if it found that."""

import sys
from typing import Any

_modules: dict[str, Any] = sys.modules
_hides = "torch" not in _modules
if _hides:
    # An import of what is None fails as if it were not installed.
    _modules["torch"] = None
try:
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter, directory_check
    from tensorboardX.proto import event_pb2
finally:
    if _hides:
        del _modules["torch"]

# The generated module names its classes only at run time.
_generated: Any = event_pb2
Event, SessionLog = _generated.Event, _generated.SessionLog

__all__ = ["Event", "EventsWriter", "SessionLog", "directory_check", "summary"]
