"""Trains a model: python -m gpt1_jax.main --config=FILE.py[:PRESET] [--workdir=RUN] [--config.KEY=VALUE …]."""

import contextlib
import json
import sys
from pathlib import Path

from absl import flags

from gpt1_jax import config_flag, signals
from gpt1_jax.door import door
from gpt1_jax.help import describe_settings, describe_tasks
from gpt1_jax.huge_pages import use_huge_pages
from gpt1_jax.overrides import from_dict

_CONFIG = config_flag.define()
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if it cannot be detected")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "with --coordinator: the number of processes")
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "with --coordinator: the number of this process, from 0"
)
_CHECK = flags.DEFINE_bool(
    "check", False, "checks config, data and devices, prints the plan as a JSON object, and trains nothing"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "the run directory [runs/<config>-<preset or task>]")


def default_workdir(spec: str) -> str:
    """Returns runs/<config>-<preset>, so that presets keep apart: 'configs/pretrain.py:tiny' → 'runs/pretrain-tiny'."""
    path, _, preset = spec.partition(":")
    return str(Path("runs") / "-".join(filter(None, (Path(path).stem, preset))))


def main(_: list[str]) -> None:
    """Reads the config and runs the stage."""
    # --help does not wait for it.
    from gpt1_jax.run import inherit

    values = config_flag.read(_CONFIG)
    workdir = default_workdir(config_flag.spec()) if _WORKDIR.value is None else _WORKDIR.value
    config = from_dict(inherit(values, workdir))

    if sys.stdout.isatty():
        # The imports take seconds. The next line, which is longer, takes the place of this one.
        print("starting …", end="\r", flush=True)

    # jax and the rest are imported only when the input is known to be right.
    from gpt1_jax.devices import hosts

    with hosts.joined(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value):
        signals.listen_again()
        if config.finetune is None:
            from gpt1_jax.training.pretraining import pretrain as train
        else:
            from gpt1_jax.training.finetuning import finetune as train
        if not _CHECK.value:
            train(config, workdir)
            return
        # Standard output has the object alone.
        with contextlib.redirect_stdout(sys.stderr):
            plan = train(config, workdir, check=True)
        if hosts.first():
            print(json.dumps(plan))


if __name__ == "__main__":
    use_huge_pages()
    door(main, more=lambda: f"{describe_settings()}\n\n{describe_tasks()}")
