"""What a command imports: packages that take seconds are imported where they are used, and torch never."""

import subprocess
import sys
from pathlib import Path

from command_support import ROOT, SMALL, make_text
from faults.commands import plain_environment
from run_support import make_run

OTHERS = ("torch", "transformers", "tensorflow", "pandas")
NEVER = (*OTHERS, "spacy", "wandb", "mlflow", "matplotlib", "tensorflow_datasets")
# What training needs to draw batches, to show how it goes, and to score a task.
TRAINING = ("grain", "tensorboardX", "sklearn", "scipy")


def imported(code: str, names: tuple[str, ...]) -> set[str]:
    """Returns which of some packages a fresh interpreter has imported after some code."""
    ending = f"\nimport sys\nprint(*(set({names!r}) & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code + ending],
        cwd=ROOT, env=plain_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")[-2].split())


def test_using_a_run_imports_nothing_that_only_training_needs(tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    code = f"import gpt1_jax; gpt1_jax.load({str(directory)!r}).generate('the', max_new_tokens=1)"
    assert not imported(
        f"{code}\nimport gpt1_jax.usage.labeling, gpt1_jax.usage.score_files", NEVER + TRAINING
    )


def test_training_imports_no_other_framework_and_nothing_that_draws() -> None:
    code = "import gpt1_jax; gpt1_jax.pretrain, gpt1_jax.finetune"
    assert not imported(code, (*NEVER, *TRAINING))


def test_a_whole_pre_training_imports_no_other_framework_and_nothing_that_draws(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(make_text(0, 4000))
    settings = SMALL | {
        "data.source": f"text:{tmp_path}/text.txt",
        "data.cache_dir": tmp_path / "cache",
        "train.num_steps": 1,
    }
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    arguments = ["main", "--config=pretrain:tiny", f"--workdir={tmp_path}/run", *flags]
    # The command ends with the interpreter, behind whose end nothing could be asked.
    code = f"""
import sys
from gpt1_jax.door import door
from gpt1_jax.main import main
sys.argv = {arguments!r}
try:
    door(main)
except SystemExit as end:
    assert not end.code"""
    assert imported(code, (*NEVER, "grain", "tensorboardX", "sklearn")) == {"grain", "tensorboardX"}
    assert (tmp_path / "run" / "results.json").exists()
