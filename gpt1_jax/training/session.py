"""What both stages of training do before the loop: inspect the devices, settle the config, open the run."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from gpt1_jax.config import Config, TrainConfig
from gpt1_jax.data.tokenizers.opening import Tokenizer, load_tokenizer
from gpt1_jax.devices import hosts
from gpt1_jax.devices.compile_cache import keep_compiled
from gpt1_jax.devices.hosts import tell
from gpt1_jax.devices.mesh import check_divisible, make_mesh
from gpt1_jax.disk.paths import check_directory
from gpt1_jax.errors import UserError
from gpt1_jax.model.embedding import table_rows
from gpt1_jax.model.kernels.choice import explain_attention
from gpt1_jax.overrides import to_dict
from gpt1_jax.run import NO_FILES, Run
from gpt1_jax.training.writers import check_tracker
from gpt1_jax.wording import counted

# The value of train.eval_every that adds evaluations within the first epoch.
_EARLY = -1


def settle(train: TrainConfig, steps_per_epoch: float) -> TrainConfig:
    """Returns the settings with numbers in place of everything that depends on the length of an epoch.

    Raises:
        UserError: the epochs have more steps than can be counted.
    """
    epoch = math.ceil(steps_per_epoch)
    evaluated_by_epoch = train.eval_every in (0, _EARLY)
    num_steps = math.ceil(train.num_epochs * steps_per_epoch) if train.num_epochs else train.num_steps
    if num_steps >= 2**31:
        raise UserError(
            f"train.num_epochs={train.num_epochs:g} are {counted(num_steps, 'step')} of this text, more than the "
            "2,147,483,647 that can be counted; set fewer."
        )
    return dataclasses.replace(
        train,
        num_steps=num_steps,
        num_epochs=0.0,
        eval_every=epoch if evaluated_by_epoch else train.eval_every,
        checkpoint_every=train.checkpoint_every or epoch,
    )


def early_evaluations(train: TrainConfig, steps_per_epoch: float) -> frozenset[int]:
    """Returns the steps within the first epoch that are evaluated, by settings that are not settled yet."""
    if train.eval_every != _EARLY:
        return frozenset()
    return frozenset(step for k in range(31) if (step := 1000 * 2**k) < steps_per_epoch)


@dataclass(frozen=True)
class Session:
    """Where a stage takes place.

    Attributes:
        run: the run directory.
        mesh: the devices.
        attention: the form of attention that was chosen, and why none that is faster; "" for a model without.
    """

    run: Run
    mesh: Mesh
    attention: str


def open_session(config: Config, workdir: str) -> Session:
    """Checks the devices, the directory and the other processes, before any data is read.

    Raises:
        UserError: the config does not fit the devices or the run in `workdir`, the directory cannot be written, or
            the processes differ in config or code.
    """
    check_tracker(config.train.tracker)
    keep_compiled(config.data.cache_dir)
    mesh = make_mesh(config.mesh)
    check_divisible(config.model, config.train.rows, mesh)
    attention = ""
    if config.model.kind == "transformer":
        platform, apart = mesh.devices.flat[0].platform, config.data.mask_documents
        attention = explain_attention(config.model, platform, dropout=True, groups=apart)
    run = Run(workdir)
    if not hosts.alone():
        values = to_dict(config)
        # Each host may have its own.
        values["data"] |= {"cache_dir": None, "tfds_dir": None}
        hosts.check_same(**{"The config": values, "The code": hosts.code_version()})

    def check() -> None:
        check_directory(run.directory, "--workdir")
        if run.exists():
            run.changes(config)

    hosts.together(check)
    return Session(run, mesh, attention)


def check_table(tokenizer: Tokenizer, mesh: Mesh) -> None:
    """Checks that the token table divides over a mesh.

    Raises:
        UserError: it does not; the error names the axis and the rows.
    """
    rows, parts = table_rows(tokenizer.vocab_size), mesh.shape["tensor"]
    if rows % parts:
        raise UserError(
            f"mesh.tensor={parts} does not divide the {counted(rows, 'row')} of the token table (a multiple of 128); "
            "set a power of two."
        )


def check_run(run: Run, config: Config, data: Mapping[str, str], tokenizer: Tokenizer) -> None:
    """Checks that a run, if it was begun, can go on with this data and tokenizer; writes nothing.

    Raises:
        UserError: as in `Run.check`; or the processes differ in data.
    """
    identity = _identify(data, tokenizer)
    hosts.on_first(lambda: run.check(config, identity) if run.exists() else None)


def _identify(data: Mapping[str, str], tokenizer: Tokenizer) -> dict[str, str]:
    """Returns the fingerprints of data and tokenizer, which all processes must share."""
    identity = {**data, "tokenizer": tokenizer.fingerprint()}
    hosts.check_same(**{"The data": data, "The tokenizer": identity["tokenizer"]})
    return identity


@dataclass(frozen=True)
class Opened:
    """A run directory that this process holds.

    Attributes:
        lines: sentences on what has changed since the run was begun, to be printed.
        record: step → writes, on process 0, what the steps after it are trained with. Nothing is written before there
            is something to do.
    """

    lines: list[str]
    record: Callable[[int], None]


def open_run(
    run: Run,
    config: Config,
    data: Mapping[str, str],
    tokenizer: Tokenizer,
    files: Mapping[str, Any] = NO_FILES,
) -> Opened:
    """Makes or opens the run directory and locks it for this process; a new one receives what it begins with.

    Args:
        run: the run directory.
        config: the settled config.
        data: the fingerprints of "text", the training data, and of "validation" if that is separate.
        tokenizer: kept in the run.
        files: further JSON files of the run, by their names.

    Raises:
        UserError: as in `Run.lock` and `Run.check`; or the processes differ in data, or do not share the directory.
    """
    identity = _identify(data, tokenizer)

    def record(step: int) -> None:
        tokenizer.save(run.tokenizer)
        run.record(config, identity, step, files)

    def open_it() -> list[str]:
        run.lock()
        if not run.exists():
            record(0)
            return []
        lines = run.check(config, identity)
        mended = run.mend(identity, files)
        if not _is_kept(tokenizer, run):
            tokenizer.save(run.tokenizer)
            mended.append(run.tokenizer.name)
        for name in mended:
            tell(f"{run.directory / name} was missing or damaged; it has been restored")
        return lines

    def look() -> None:
        if not run.exists():
            raise UserError(
                f"--workdir={run.directory} is not shared; name a directory that all processes see."
            )

    lines = hosts.on_first(open_it)
    hosts.together(look)
    return Opened(lines or [], lambda step: hosts.on_first(lambda: record(step)))


def _is_kept(tokenizer: Tokenizer, run: Run) -> bool:
    try:
        return load_tokenizer(run.tokenizer).fingerprint() == tokenizer.fingerprint()
    except UserError:
        return False
