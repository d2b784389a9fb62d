"""Measures a run: python -m gpt1_jax.evaluate --workdir=RUN [--source=SOURCE] [--zero_shot=TASK] [--step=STEP]."""

import json

from absl import flags

from gpt1_jax.arguments import STEP_HELP, check_step
from gpt1_jax.door import door
from gpt1_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "the run directory")
_SOURCE = flags.DEFINE_string(
    "source", None, "text:GLOB, or data of its task: files:DIR, tfds; by default the run's own held-out part"
)
_ZERO_SHOT = flags.DEFINE_string(
    "zero_shot",
    None,
    "a task to score without fine-tuning on it: cola, sst2, dprd, lambada, any multiple choice; ax by a run of mnli",
)
_TEMPLATE = flags.DEFINE_string(
    "prompt_template",
    None,
    "a file that puts the examples of --zero_shot into words, such as '{text} It was {answer}'",
)
_SHOTS = flags.DEFINE_integer("shots", 0, "solved training examples before each of --zero_shot", 0, 2**20)
_STEP = flags.DEFINE_string("step", None, STEP_HELP)
_STEPS = flags.DEFINE_string("steps", "", "several checkpoints: 500,1000 or all")


def main(_: list[str]) -> None:
    """Prints a JSON object for each checkpoint, with its step and loss, perplexity, bits_per_byte or a task's metrics.

    The zero-shot scores of several checkpoints are also drawn, as RUN/zero_shot-TASK.png, and kept beside it for
    RUN/report.html.
    """
    workdir, source, task = _WORKDIR.value, _SOURCE.value, _ZERO_SHOT.value
    if workdir is None:
        raise UserError("--workdir is missing; name the run directory to measure.")
    if task is None and (_TEMPLATE.value or _SHOTS.value):
        raise UserError("--prompt_template and --shots go with --zero_shot=TASK; name a task.")
    step = check_step(_STEP.value, "--step")
    if step is not None and _STEPS.value:
        raise UserError(f"--step={step} and --steps={_STEPS.value} both name checkpoints; leave one out.")

    # jax and the rest are imported only when the input is known to be right.
    from gpt1_jax.disk.whole_files import write_whole
    from gpt1_jax.pages.facts import ZERO_SHOT
    from gpt1_jax.run import Run
    from gpt1_jax.usage import measuring

    found = []
    prompting = measuring.Prompting(_TEMPLATE.value, _SHOTS.value or 0)
    chosen = measuring.checkpoint_steps(workdir, _STEPS.value or "") if step is None else (step,)
    for step in chosen:
        found.append(
            measuring.zero_shot(workdir, task, source, step, prompting)
            if task is not None
            else measuring.evaluate(workdir, source, step)
        )
        print(json.dumps(found[-1]), flush=True)
    if task is not None and len(found) > 1:
        from gpt1_jax.usage import pictures

        place = Run(workdir).directory
        write_whole(place / f"{ZERO_SHOT}{task}.jsonl", "".join(json.dumps(line) + "\n" for line in found))
        pictures.draw_scores(place / f"{ZERO_SHOT}{task}.png", f"{task}, zero-shot", found)


if __name__ == "__main__":
    door(main, fields={"data.source": "source", "finetune.task": "zero_shot"})
