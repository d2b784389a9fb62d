"""Labels new examples: python -m gpt1_jax.predict --workdir=RUN --input=IN.jsonl --output=OUT.jsonl."""

import json
from typing import Any

from absl import flags
from etils import epath

from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.whole_files import write_whole

_WORKDIR = flags.DEFINE_string("workdir", None, "a run that was fine-tuned")
_INPUT = flags.DEFINE_string("input", None, "a .jsonl file, an example a line")
_OUTPUT = flags.DEFINE_string("output", None, "the .jsonl file to write: a line for each, in order")


def main(_: list[str]) -> None:
    """Writes a label and probabilities for each line; nothing where any line is wrong."""
    workdir, source, target = _WORKDIR.value, _INPUT.value, _OUTPUT.value
    if workdir is None or source is None or target is None:
        raise UserError("--workdir=RUN, --input=IN.jsonl and --output=OUT.jsonl are all needed.")
    records = read_records(epath.Path(source))
    output = epath.Path(target)
    if not output.parent.exists():
        raise UserError(f"--output={target} lies in no directory; make {output.parent}.")

    from gpt1_jax import load  # jax and the rest, once the input is known to be right

    lines = [json.dumps(prediction) + "\n" for prediction in load(workdir).predict(records)]
    write_whole(output, "".join(lines))


def read_records(path: epath.Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line.

    Raises:
        UserError: there is no such file, it is not UTF-8, or a line, told by its number, is no JSON object.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"--input={path} does not exist; name a .jsonl file.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--input={path} is not UTF-8 (at byte {error.start}); convert it.") from error
    records = []
    for number, line in enumerate(text.rstrip("\r\n\t ").split("\n") if text.strip() else [], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UserError(
                f"Line {number} of --input={path}, {line[:60]!r}, is not a JSON object; write one such as "
                '{"text": "…"}.'
            )
        records.append(record)
    return records


if __name__ == "__main__":
    door(main)
