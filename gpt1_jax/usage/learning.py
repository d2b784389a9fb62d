"""Trains from Python as the command does, and opens the run that comes of it."""

import contextlib
import gc
import os
import re
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from gpt1_jax import config_flag, signals
from gpt1_jax.arguments import check_path, shown
from gpt1_jax.config import Config
from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.errors import Stopped, UserError
from gpt1_jax.overrides import change, flatten, from_dict, to_dict
from gpt1_jax.run import Run, inherit
from gpt1_jax.tasks.task import Columns, Kind
from gpt1_jax.training import finetuning, pretraining
from gpt1_jax.training.kept import EXAMPLES
from gpt1_jax.troubles import explain
from gpt1_jax.usage.given import check_columns, check_kind, read_labeled, spell_columns, to_lines
from gpt1_jax.usage.trained import TrainedRun


def pretrain(
    config: str | os.PathLike[str] | Config | ConfigDict | Mapping[str, Any],
    workdir: str | os.PathLike[str],
    **changes: Any,
) -> TrainedRun:
    """Pre-trains a language model and returns its run; called again, it resumes.

    Args:
        config: the name of a preset, such as "tiny"; a config file, as --config names it; or a config itself.
        workdir: the run directory.
        **changes: other values of the config, as `train={"num_steps": 500}`, `seed=1` or
            `**{"train.num_steps": 500}`.

    Raises:
        UserError: something is wrong with the config, the text or the directory.
        KeyboardInterrupt: it was interrupted; what it had learned is saved if its first step was reached.
    """
    directory = check_path(workdir, "workdir")
    with _in_python({r"--config=configs/pretrain\.py:": "config="}):
        values = change(_values(config), _flat(changes))
        if values.get("finetune") is not None:
            raise UserError(f"config={shown(config)} is one of fine-tuning; call gpt1_jax.finetune.")
        _train(pretraining.pretrain, from_dict(inherit(values, directory)), directory)
    return TrainedRun(directory)


def finetune(
    directory: str | os.PathLike[str],
    examples: object,
    *,
    kind: Kind,
    workdir: str | os.PathLike[str],
    validation: object = None,
    columns: Mapping[str, str | list[str]] | None = None,
    epochs: float | None = None,
    **changes: Any,
) -> TrainedRun:
    """Fine-tunes a run on labeled examples and returns the run that comes of it; called again, it resumes.

    It does what the command does with configs/finetune.py:custom and the same examples in a file.

    Args:
        directory: the run directory of a pre-trained model.
        examples: dictionaries with the columns of the kind; tuples of them in order, the label last; or a pandas
            frame. The columns are those of the table "Your own examples" in the page on fine-tuning.
        kind: classification, entailment, similarity, choice, tagging, span or completion.
        workdir: the run directory that is made. It keeps the examples.
        validation: examples to judge by; by default a tenth of each class is held out.
        columns: the names of columns that have others: {"text": "review", "label": "stars"}.
        epochs: how often each example is read; by default 3.
        **changes: other values of the config, as `optimizer={"learning_rate": 1e-3}`, `seed=1` or
            `**{"train.batch_size": 16}`.

    Raises:
        UserError: something is wrong with an argument, an example or a directory.
        KeyboardInterrupt: it was interrupted; what it had learned is saved if its first step was reached.
    """
    run, known = Run(check_path(workdir, "workdir"), "workdir"), check_kind(kind)
    learned = _to_files(known, examples, validation, check_columns(columns, known))
    place = f"{run.directory / EXAMPLES}"
    source = place if validation is not None else f"{place}/{_TRAIN}"
    settings = {
        "init_from": check_path(directory, "directory"),
        "data.source": f"files:{source}",
        "finetune.kind": known,
        "finetune.columns": spell_columns(learned.columns),
        **({} if epochs is None else {"train.num_epochs": epochs}),
        **_flat(changes),
    }
    with _in_python(_as_arguments(place, source)):
        values = change(config_flag.read_file("finetune:custom"), settings)
        config = from_dict(inherit(values, str(run.directory)))
        with _kept(run, learned.files):
            _train(finetuning.finetune, config, str(run.directory))
    return TrainedRun(run.directory)


# ── The config ───────────────────────────────────────────────────────────────────────────────────────────────


def _values(config: object) -> dict[str, Any]:
    """Returns a config as dictionaries, whatever it is given as."""
    if isinstance(config, Config):
        return to_dict(config)
    if isinstance(config, ConfigDict):
        return config.to_dict()
    if isinstance(config, Mapping):
        return {**config}
    spec = check_path(config, "config")
    name = spec.partition(":")[0]
    whole = name.endswith(".py") or name in config_flag.packaged()
    return config_flag.read_file(spec if whole else f"pretrain:{spec}")


def _flat(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns changes by their dotted names, with values of Python's own types."""
    return {name: _own(value) for name, value in flatten({**changes}).items()}


def _own(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


# ── The examples ─────────────────────────────────────────────────────────────────────────────────────────────

# The files in which a run keeps the examples that it was given.
_TRAIN, _VALIDATION = "train.jsonl", "validation.jsonl"


class _Files(NamedTuple):
    """Examples as files, by their names, and the names of columns that differ from the kind's."""

    files: dict[str, bytes]
    columns: Columns


def _to_files(kind: Kind, examples: object, validation: object, columns: Columns) -> _Files:
    """Returns the examples of the arguments `examples` and `validation` as files.

    Raises:
        UserError: one of them is not an example of the kind.
    """
    learned = read_labeled(kind, examples, "examples", columns)
    files = {_TRAIN: to_lines(learned.records, "examples")}
    if validation is not None:
        judged = read_labeled(kind, validation, "validation", learned.columns)
        files[_VALIDATION] = to_lines(judged.records, "validation")
    return _Files(files, learned.columns)


@contextlib.contextmanager
def _kept(run: Run, files: Mapping[str, bytes]) -> Iterator[None]:
    """Keeps examples in a run's directory; if no run comes of it, they are removed again.

    Raises:
        UserError: the directory has other examples or another run, or is in a bucket.
    """
    if "://" in str(run.directory):
        raise UserError(
            f"workdir={run.directory} is in a bucket, but examples are read from a disk; name one there."
        )
    place = run.directory / EXAMPLES
    there = Path(place).is_dir()
    present = (
        {file.name: file.read_bytes() for file in Path(place).iterdir() if file.is_file()} if there else {}
    )
    if present == files:
        yield
        return
    if there or run.exists():
        raise UserError(
            f"workdir={run.directory} holds a run with other examples; give the same ones, or name another directory."
        )
    made = next(path for path in (Path(place), *Path(place).parents) if path.parent.exists())
    try:
        place.mkdir(parents=True)
        for name, content in files.items():
            write_whole(place / name, content)
        yield
    finally:
        if not run.exists():
            shutil.rmtree(made, ignore_errors=True)


# ── The training ─────────────────────────────────────────────────────────────────────────────────────────────


def _train(stage: Callable[[Config, str], object], config: Config, workdir: str) -> None:
    """Runs a stage; after Ctrl-C the same call resumes it.

    Raises:
        KeyboardInterrupt: Ctrl-C asked for it; the text says what is saved.
    """
    try:
        # Everything here is made for 32 bits, whatever the caller has set.
        with signals.interruptible(), jax.enable_x64(False):
            stage(config, workdir)
    except BaseException as error:
        # A notebook keeps the last error, and with it all that its frames hold, such as the lock of the run.
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, Stopped):
            raise KeyboardInterrupt(_as_call(str(error))) from None
        raise
    finally:
        gc.collect()


# ── Errors ───────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _in_python(patterns: Mapping[str, Any]) -> Iterator[None]:
    """Says the errors of the command as Python's callers know its settings.

    Args:
        patterns: what a message may hold, and what stands there instead.
    """
    try:
        yield
    except Exception as error:
        known = explain(error)
        if not isinstance(known, UserError):
            raise
        message = str(known)
        for pattern, name in patterns.items():
            message = re.sub(pattern, name, message)
        raise UserError(_as_call(message)) from None


def _as_arguments(place: str, source: str) -> dict[str, Any]:
    """Returns what a message on fine-tuning may hold, and the argument of Python that stands there instead.

    Args:
        place: the directory of the examples.
        source: what data.source names of it.
    """
    files = {_TRAIN: "examples", _VALIDATION: "validation"}
    return {
        **{
            rf"(data\.source: )?line (\d+) of {re.escape(f'{place}/{file}')}": _numbered(name)
            for file, name in files.items()
        },
        rf"data\.source='?files:{re.escape(source)}'?": "examples",
        r"data\.source: ": "examples: ",
        r"\binit_from\b": "directory",
        r"\btrain\.num_epochs\b": "epochs",
        r"\bfinetune\.columns=(\w+)=COLUMN": r'columns={"\1": …}',
        r"\bfinetune\.(kind|columns)\b": r"\1",
    }


def _numbered(name: str) -> Callable[[re.Match[str]], str]:
    return lambda found: f"{name}[{int(found[2]) - 1}]"


def _as_call(message: str) -> str:
    """Returns a message without flags: --workdir is workdir, and config.seed is seed."""
    message = message.replace("run the same command again", "make the same call again")
    return re.sub(r"--(?:config\.)?(?=[a-z])|(?<![\w./])config\.(?=[a-z])(?!json)", "", message)
