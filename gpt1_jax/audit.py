"""Questions a pre-training: python -m gpt1_jax.audit --workdir=RUN --step=N | --find=TEXT | --replay=A:B."""

import json
import sys

from absl import flags

from gpt1_jax.door import door
from gpt1_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "the run directory")
_STEP = flags.DEFINE_integer("step", None, "a step, from 1: prints what each row of its batch was")
_FIND = flags.DEFINE_string("find", None, "a text: prints in which steps and rows it was read so far")
_REPLAY = flags.DEFINE_string(
    "replay",
    None,
    "A:B, the steps of two checkpoints: does the steps between them again and compares the outcome bit by bit",
)


def main(_: list[str]) -> None:
    """Prints JSON objects, a line each: the rows of a step, the places of a text, or the outcome of a replay."""
    workdir, given = _WORKDIR.value, [_STEP.value, _FIND.value, _REPLAY.value]
    if workdir is None:
        raise UserError("--workdir is missing; name the run directory to be audited.")
    if sum(value is not None for value in given) != 1:
        raise UserError("Ask one question: --step=N, --find=TEXT or --replay=A:B.")

    # jax and the rest are imported only when the input is known to be right.
    from gpt1_jax.usage.auditing import Audit

    audit = Audit(workdir)
    if _STEP.value is not None:
        for row in audit.rows(_STEP.value):
            print(json.dumps(row), flush=True)
    elif _FIND.value is not None:
        count = 0
        for visit in audit.find(_FIND.value):
            print(json.dumps(visit._asdict()), flush=True)
            count += 1
        print(f"read {count:,} times so far", file=sys.stderr)
    else:
        print(json.dumps(audit.replay(_REPLAY.value or "")), flush=True)


if __name__ == "__main__":
    door(main)
