"""Shows runs as a page, side by side or in a list: python -m gpt1_jax.report RUN [RUN …] [--output=FILE.html]."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from etils import epath

from gpt1_jax.arguments import STEP_HELP, check_step, check_text
from gpt1_jax.door import door
from gpt1_jax.errors import UserError

_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "the file to write; by default RUN/report.html for one run, report.html here for several, and explained.html here "
    "with --explain",
)
_STRUCTURE = flags.DEFINE_bool(
    "structure", False, "writes the picture of the model's structure, an SVG, instead of a page"
)
_EXPLAIN = flags.DEFINE_bool(
    "explain",
    False,
    "writes a page of what the run makes of --prompt: surprisal, predictions, attention, and what each layer would "
    "predict; of two runs also the difference of their probabilities",
)
_PROMPT = flags.DEFINE_string("prompt", None, "the text for --explain")
_STEP = flags.DEFINE_string("step", None, f"for --explain, {STEP_HELP}")


def main(arguments: list[str]) -> None:
    """Prints where the page is; of a directory of runs it prints the runs with their scores."""
    from gpt1_jax.disk.paths import expand
    from gpt1_jax.disk.whole_files import write_whole
    from gpt1_jax.pages.facts import find_runs, read_facts
    from gpt1_jax.pages.page import describe_score, make_page, write_page
    from gpt1_jax.pages.structure import draw_structure
    from gpt1_jax.run import Run

    places = [expand(argument, "RUN") for argument in arguments[1:]]
    output = None if _OUTPUT.value is None else expand(_OUTPUT.value, "--output")
    if output is not None and output.is_dir():
        raise UserError(f"--output={output} is a directory; name a file in it.")
    if _EXPLAIN.value:
        _explain(places, output)
        return
    for flag in (_PROMPT, _STEP):
        if flag.value is not None:
            raise UserError(
                f"--{flag.name}={flag.value:.60} goes with --explain only; add that or leave it out."
            )
    if _STRUCTURE.value:
        if len(places) > 1:
            raise UserError("--structure draws one model; name one run.")
        config = Run(str(places[0]), "RUN").config()
        picture = draw_structure(config.model, config.data.vocab_size)
        if output is None:
            print(picture)
        else:
            write_whole(output, picture + "\n")
            print(output)
        return
    if len(places) == 1 and not Run(str(places[0])).exists() and output is None:
        found = [read_facts(run) for run in find_runs(places[0])]
        kinds = [facts.config.finetune.task if facts.config.finetune else "pre-training" for facts in found]
        name, kind = max(len(facts.name) for facts in found), max(map(len, kinds))
        step = max(len(f"{facts.step:,}") for facts in found)
        for facts, told in zip(found, kinds, strict=True):
            print(f"{facts.name:{name}}  {told:{kind}}  step {facts.step:>{step},}  {describe_score(facts)}")
        return
    runs = [run for place in places for run in find_runs(place)]
    if len(runs) == 1 and output is None:
        print(write_page(runs[0]))
        return
    output = output or expand(str(Path.cwd() / "report.html"), "--output")
    write_whole(output, make_page([read_facts(run) for run in runs]))
    print(output)


def _explain(places: Sequence[epath.Path], output: epath.Path | None) -> None:
    from gpt1_jax.disk.paths import expand

    if _STRUCTURE.value:
        raise UserError("--explain and --structure write different things; give one of them.")
    if len(places) > 2:
        raise UserError(f"--explain compares two runs, and {len(places)} are named; name one or two.")
    if _PROMPT.value is None:
        raise UserError("--prompt is missing; give the text that --explain is to show.")
    step, prompt = check_step(_STEP.value, "--step"), check_text(_PROMPT.value, "--prompt")
    output = output or expand(str(Path.cwd() / "explained.html"), "--output")

    # jax and the rest are imported only when the input is known to be right.
    from gpt1_jax import load

    run, *others = (load(str(place), step) for place in places)
    run.explain(prompt, *others).save(output)
    print(output)


if __name__ == "__main__":
    door(main, positional=("RUN…",))
