"""Questions a training: python -m gpt1_jax.audit --workdir=RUN --step=N (--find, --documents, --replay, --verify)."""

import json
import sys

from absl import flags

from gpt1_jax.door import door
from gpt1_jax.errors import Fault, UserError
from gpt1_jax.wording import counted

_WORKDIR = flags.DEFINE_string("workdir", None, "the run directory")
_STEP = flags.DEFINE_integer("step", None, "a step, from 1: prints what each row of its batch was")
_FIND = flags.DEFINE_string("find", None, "a text: prints in which steps and rows it was read so far")
_DOCUMENTS = flags.DEFINE_bool(
    "documents",
    False,
    "prints the number and the hash of each training document, or of those with the text of --find; data.without takes "
    "either",
)
_REPLAY = flags.DEFINE_string(
    "replay",
    None,
    "A:B, the steps of two checkpoints: does the steps between them again and compares the outcome bit by bit",
)
_VERIFY = flags.DEFINE_bool(
    "verify",
    False,
    "compares each checkpoint with checksums.jsonl, which is all that has to lie beside checkpoints",
)


def main(_: list[str]) -> None:
    """Prints JSON objects, a line each: rows, places, documents, the outcome of a replay, or verified checkpoints."""
    workdir = _WORKDIR.value
    if workdir is None:
        raise UserError("--workdir is missing; name the run directory to be audited.")
    found = _FIND.value is not None or _DOCUMENTS.value
    if sum([_STEP.value is not None, found, _REPLAY.value is not None, bool(_VERIFY.value)]) != 1:
        raise UserError("Ask one question: --step=N, --find=TEXT, --documents, --replay=A:B or --verify.")

    # jax and the rest are imported only when the input is known to be right.
    from gpt1_jax.usage.auditing import Audit
    from gpt1_jax.usage.verifying import verify

    if _VERIFY.value:
        wrong = []
        for verified in verify(workdir):
            print(json.dumps(verified), flush=True)
            wrong += [str(verified["step"])] if verified["equal"] is False else []
        if wrong:
            raise Fault(
                f"These checkpoints of {workdir} are not what the run saved: {', '.join(wrong)}; get them again, or "
                "ask who published them."
            )
        return
    audit = Audit(workdir)
    if _STEP.value is not None:
        for row in audit.rows(_STEP.value):
            print(json.dumps(row), flush=True)
    elif _DOCUMENTS.value:
        for document in audit.documents(_FIND.value):
            print(json.dumps(document), flush=True)
    elif _FIND.value is not None:
        count = 0
        for visit in audit.find(_FIND.value):
            print(json.dumps(visit._asdict()), flush=True)
            count += 1
        print(f"read {counted(count, 'time')} so far", file=sys.stderr)
    else:
        print(json.dumps(audit.replay(_REPLAY.value or "")), flush=True)


if __name__ == "__main__":
    door(main)
