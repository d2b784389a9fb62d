"""Labels new examples: python -m gpt1_jax.predict --workdir=RUN --input=IN.jsonl --output=OUT.jsonl."""

import json
from typing import Any

from absl import flags
from etils import epath

from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.inputs import decode, open_input, parse_object, read_lines
from gpt1_jax.paths import expand
from gpt1_jax.whole_files import write_whole

_WORKDIR = flags.DEFINE_string("workdir", None, "a run that was fine-tuned")
_INPUT = flags.DEFINE_string("input", None, "a .jsonl file, an example a line")
_OUTPUT = flags.DEFINE_string("output", None, "the .jsonl file to write: a line for each, in order")


def main(_: list[str]) -> None:
    """Writes a label and probabilities for each line; nothing where any line is wrong."""
    workdir, source, target = _WORKDIR.value, _INPUT.value, _OUTPUT.value
    if workdir is None or source is None or target is None:
        raise UserError("--workdir=RUN, --input=IN.jsonl and --output=OUT.jsonl are all needed.")
    records = read_records(expand(source, "--input"))
    output = expand(target, "--output")
    if not output.parent.exists():
        raise UserError(f"--output={target} lies in no directory; make {output.parent}.")

    from gpt1_jax import load  # jax and the rest, once the input is known to be right

    lines = [json.dumps(prediction) + "\n" for prediction in load(workdir).predict(records)]
    write_whole(output, "".join(lines))


def read_records(path: epath.Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; empty lines are none.

    Raises:
        UserError: there is no such file, it is not UTF-8, or a line, told by its number, is no JSON object.
    """
    records = []
    with open_input(path, "--input", pipe=True) as file:
        for number, line in enumerate(read_lines(file, f"--input: {path}"), start=1):
            where = f"--input: line {number} of {path}"
            if line.strip():
                records.append(parse_object(decode(line, where), where))
    return records


if __name__ == "__main__":
    door(main)
