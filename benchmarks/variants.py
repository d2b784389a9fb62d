"""Trainings that differ in one thing: run directories such as DIR/VARIANT/SEED, by the commands a user gives.

A finished run is kept, and one that was stopped goes on, so whatever calls this can be called again after an
interruption.
"""

import ctypes
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.errors import UserError

# What each variant changes. `lstm` changes nothing, but starts from another run.
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no_pretraining": {"finetune.num_transfer_layers": -1},
    "no_auxiliary": {"finetune.auxiliary_weight": 0.0},
    "lstm": {},
    # The authors' way, all at once and switch by switch.
    "authors": {
        "model.embedding_dropout_form": "matrix",
        "model.dtype": "float32",
        "train.eval_every": -1,
        "finetune.batching": "shuffled",
        "finetune.remainder": "dropped",
        "finetune.softmax": "authors",
    },
    "shuffled": {"finetune.batching": "shuffled"},
    "pools": {"finetune.batching": "pools"},
    "dropped": {"finetune.remainder": "dropped"},
    "last": {"finetune.select": "last"},
    "evaluations": {"train.eval_every": -1},
    "matrix": {"model.embedding_dropout_form": "matrix"},
    "softmax_authors": {"finetune.softmax": "authors"},
    "regression": {"finetune.scores": "regression"},
    "bfloat16": {"model.dtype": "bfloat16"},
    "no_embedding_dropout": {"model.embedding_dropout": 0.0},
    "no_attention_dropout": {"model.attention_dropout": 0.0},
    "no_residual_dropout": {"model.residual_dropout": 0.0},
    "no_classifier_dropout": {"finetune.classifier_dropout": 0.0},
    # The optimizer, and what write-ups of the paper get wrong about it.
    "adamw": {"optimizer.name": "adamw"},
    "decay_all": {"optimizer.decayed": "all"},
    "no_decay": {"optimizer.weight_decay": 0.0},
    "no_clipping": {"optimizer.clip_norm": 0.0},
    "warmup_cosine": {"optimizer.schedule": "warmup_cosine"},
    "warmup_constant": {"optimizer.schedule": "warmup_constant"},
    # A decay over 0.2 % of the updates is one over a single update, where they are fewer than a thousand.
    "decay_at_once": {"optimizer.total_steps": 1, "optimizer.warmup_fraction": 0.0},
    # λ on the loss of the task is 1/λ on the other, but for the scale of both, which Adam does not see.
    "weighted_task": {"finetune.auxiliary_weight": 2.0},
}
TRANSFER = "transfer_"


class Setting(NamedTuple):
    """What the fine-tunings of a task have in common.

    Attributes:
        task: a name of the catalog.
        source: its data.source; "" is that of the config.
        seeds: of each variant.
        settings: KEY=VALUE of the config.
    """

    task: str
    source: str
    seeds: tuple[str, ...]
    settings: tuple[str, ...] = ()


def transfers(num_layers: int) -> dict[str, dict[str, Any]]:
    """Returns a variant for each number of transferred blocks, from none, which leaves the embeddings, to all."""
    return {
        f"{TRANSFER}{blocks}": {"finetune.num_transfer_layers": blocks} for blocks in range(num_layers + 1)
    }


def pretrain(workdir: Path, steps: int, settings: Sequence[str]) -> None:
    """Pre-trains a model of the preset `tiny` for so many steps; does nothing where it has them.

    Args:
        workdir: the run directory.
        steps: updates.
        settings: further KEY=VALUE of the config.
    """
    if read_results(workdir).get("step") == steps:
        return
    own = (f"--config.{setting}" for setting in [*settings, f"train.num_steps={steps}"])
    for _ in call("main", "--config=configs/pretrain.py:tiny", f"--workdir={workdir}", *own):
        pass


def finetune(place: Path, setting: Setting, start: str, changes: Mapping[str, Any]) -> None:
    """Fine-tunes once for each seed, in PLACE/SEED.

    Args:
        place: the directory of the variant.
        setting: the task.
        start: the pre-trained run; {seed} in it stands for the seed.
        changes: values of the config by its keys.
    """
    given = [f"{key}={value}" for key, value in changes.items()] + list(setting.settings)
    given += [f"data.source={setting.source}"] if setting.source else []
    for seed in setting.seeds:
        if is_finished(place / seed):
            continue
        own = [*given, f"init_from={start.replace('{seed}', seed)}", f"seed={seed}"]
        flags = [f"--config=configs/finetune.py:{setting.task}", f"--workdir={place / seed}"]
        for _ in call("main", *flags, *(f"--config.{value}" for value in own)):
            pass


def is_finished(workdir: Path) -> bool:
    """Returns whether a fine-tuning has written all its predictions, the last of which its results tell."""
    return "predictions" in read_results(workdir)


def read_results(workdir: Path) -> dict[str, Any]:
    """Returns the results of a run; nothing if there are none yet."""
    path = workdir / "results.json"
    return json.loads(path.read_text()) if path.exists() else {}


def call(command: str, *flags: str) -> Iterator[str]:
    """Runs a command of gpt1_jax; yields the lines of its standard output as they come.

    On Linux the command ends with this process, even if this one is killed, so that no run stays locked.

    Raises:
        UserError: it fails.
    """
    line = [sys.executable, "-m", f"gpt1_jax.{command}", *flags]
    print("+", *line[1:], file=sys.stderr, flush=True)
    die = _die_with_parent if sys.platform == "linux" else None
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, preexec_fn=die) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        raise UserError(
            f"The command above ended with {process.returncode}; correct that, and run this again."
        )


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG; checkpoints are whole at every moment.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def write_scores(place: Path, scores: Mapping[str, float]) -> None:
    """Writes what was not fine-tuned, such as a baseline, in the form of results.json."""
    place.mkdir(parents=True, exist_ok=True)
    write_whole(place / "results.json", json.dumps({"validation": dict(scores)}) + "\n")
