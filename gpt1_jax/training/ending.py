"""What is told when a training is done."""

import shlex

from gpt1_jax.devices.memory import peak_memory
from gpt1_jax.pages.facts import PAGE
from gpt1_jax.run import Run
from gpt1_jax.training.plan import spell_seconds
from gpt1_jax.training.screen import describe_metrics
from gpt1_jax.training.stage import Stage
from gpt1_jax.wording import counted


def describe_end(stage: Stage, run: Run, steps: int, seconds: float) -> list[str]:
    """Returns lines on what was done, where it lies, and its best evaluation.

    Args:
        stage: what was trained.
        run: the run directory.
        steps: the number of steps that were made.
        seconds: how long that took, in all.
    """
    lasted = spell_seconds(seconds).removeprefix("about ")
    lines = [f"{'done':8} {counted(steps, 'step')} in {lasted}; peak memory {peak_memory()}"]
    if best := run.results().get("best"):
        values = {name: value for name, value in best.items() if name != "step" and value is not None}
        lines.append(f"{'best':8} step {best['step']}  {describe_metrics(values)}")
    return [*lines, f"{'page':8} {run.directory / PAGE}"]


def next_after_pretraining(run: Run, causal: bool) -> str:
    """Returns the command that a user may try next: to let the model write or, if it cannot, to fine-tune it."""
    directory = shlex.quote(str(run.directory))
    if causal:
        return f'{"next":8} python -m gpt1_jax.generate --workdir={directory} --prompt="In the"'
    return f"{'next':8} python -m gpt1_jax.main --config=finetune:demo_genre --config.init_from={directory}"


def next_after_finetuning(run: Run) -> str:
    """Returns the command that a user may try next: to label new examples."""
    directory = shlex.quote(str(run.directory))
    return f"{'next':8} python -m gpt1_jax.predict --workdir={directory} --input=new.jsonl --output=labeled.jsonl"
