"""Labels new examples: python -m gpt1_jax.predict --workdir=RUN --input=IN.jsonl --output=OUT.jsonl."""

import sys
from typing import Any

from absl import flags

from gpt1_jax.arguments import STEP_HELP, check_step
from gpt1_jax.disk.paths import expand
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.usage.prediction_files import checked_records, open_output, write_answers
from gpt1_jax.wording import counted

_WORKDIR = flags.DEFINE_string("workdir", None, "a run that was fine-tuned")
_STEP = flags.DEFINE_string("step", None, STEP_HELP)
_INPUT = flags.DEFINE_string("input", None, "a file of examples: .jsonl with one a line, .csv or .tsv")
_OUTPUT = flags.DEFINE_string("output", None, "the .jsonl file to write, a line per example in order")


def main(_: list[str]) -> None:
    """Writes a label and probabilities for each example, or nothing if any is wrong."""
    workdir, source, target = _WORKDIR.value, _INPUT.value, _OUTPUT.value
    if workdir is None or source is None or target is None:
        raise UserError("--workdir=RUN, --input=IN.jsonl and --output=OUT.jsonl are all needed.")
    step = check_step(_STEP.value, "--step")
    given = expand(source, "--input")
    output = open_output(target, given)
    with checked_records(given) as records:
        # jax and the rest are imported only when the input is known to be right.
        from gpt1_jax import load
        from gpt1_jax.usage.labeling import predict_records

        found = predict_records(load(workdir, step), records)
        count = write_answers(output, map(_shorten, found))
    # The output may be standard output.
    print(f"labeled {counted(count, 'example')}: {output}", file=sys.stderr)


def _shorten(value: Any) -> Any:
    """Returns a prediction with numbers of six digits, which is more than a model is sure of."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _shorten(member) for name, member in value.items()}
    return [_shorten(member) for member in value] if isinstance(value, list) else value


if __name__ == "__main__":
    door(main, fields={"data.source": "input"})
