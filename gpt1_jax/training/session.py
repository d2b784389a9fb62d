"""What both stages of training do between their data and the loop: settle the config, state, compile, train."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from gpt1_jax import signals
from gpt1_jax.config import Config, ModelConfig
from gpt1_jax.data.tokenizers.opening import Tokenizer, load_tokenizer
from gpt1_jax.devices import hosts
from gpt1_jax.devices.hosts import tell
from gpt1_jax.devices.memory import peak_memory
from gpt1_jax.devices.mesh import batch_sharding, placements
from gpt1_jax.disk.paths import check_directory
from gpt1_jax.errors import UserError
from gpt1_jax.model.kernels.choice import choose_attention
from gpt1_jax.model.transformer import parameter_count
from gpt1_jax.overrides import to_dict
from gpt1_jax.run import NO_FILES, Run
from gpt1_jax.training import divergence
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.entries import make_results, read_entries
from gpt1_jax.training.log import MetricsLog
from gpt1_jax.training.loop import train
from gpt1_jax.training.objectives import Objective
from gpt1_jax.training.optimizers import make_optimizer, make_schedule
from gpt1_jax.training.record import Record, lacks_evaluation
from gpt1_jax.training.stage import Stage
from gpt1_jax.training.step import State, abstract_state, compile_step, initial_state, make_train_step


def settle(config: Config, steps_per_epoch: float) -> Config:
    """The config with what depends on the length of an epoch made numbers: see TrainConfig.

    Raises:
        UserError: the epochs are more steps than can be counted.
    """
    train = config.train
    epoch = math.ceil(steps_per_epoch)
    num_steps = math.ceil(train.num_epochs * steps_per_epoch) if train.num_epochs else train.num_steps
    if num_steps >= 2**31:
        raise UserError(
            f"train.num_epochs={train.num_epochs:g} are {num_steps} steps of this text, more than the 2147483647 that "
            "can be counted; set fewer."
        )
    train = dataclasses.replace(
        train,
        num_steps=num_steps,
        num_epochs=0.0,
        eval_every=train.eval_every or epoch,
        checkpoint_every=train.checkpoint_every or epoch,
    )
    return dataclasses.replace(config, train=train)


def fit_attention(config: ModelConfig, mesh: Mesh, dropout: bool = True) -> tuple[ModelConfig, list[str]]:
    """The model's config with the attention that the devices run, and a line that tells it.

    Raises:
        UserError: as `choose_attention`.
    """
    if config.kind != "transformer":
        return config, []
    form = choose_attention(config, mesh.devices.flat[0].platform, dropout)
    return dataclasses.replace(config, attention=form), [f"attention: {form}"]


def check_processes(config: Config, run: Run) -> None:
    """Refuses what cannot go on, before any data is read.

    Raises:
        UserError: the run was begun with another config, or its directory cannot be written, or the processes have not
            the same config and code.
    """
    if not hosts.alone():
        values = to_dict(config)
        values["data"] |= {"cache_dir": None, "tfds_dir": None}  # a host may have its own
        hosts.check_same(**{"The config": values, "The code": hosts.code_version()})

    def check() -> None:
        check_directory(run.directory, "--workdir")
        if run.exists():
            run.changes(config)

    hosts.together(check)


@dataclass(frozen=True)
class Opened:
    """A run directory that this process holds.

    Fields:
        lines: what has changed since it was begun, to be told.
        record: step → writes what the steps behind it are trained with, on process 0; nothing is written before there
            is something to do.
    """

    lines: list[str]
    record: Callable[[int], None]


def begin(
    run: Run,
    config: Config,
    data: Mapping[str, str],
    tokenizer: Tokenizer,
    files: Mapping[str, Any] = NO_FILES,
) -> Opened:
    """Makes or opens the run directory and locks it for this process; a new one gets what it begins with.

    Args:
        config: settled.
        data: the fingerprints of "text", what is learned from, and of "validation" where that is apart.
        tokenizer: is kept in the run.
        files: further JSON files of the run, by their names.

    Raises:
        UserError: as `Run.lock` and `Run.check`; the processes have not the same data, or do not share the directory.
    """
    identity = {**data, "tokenizer": tokenizer.fingerprint()}
    hosts.check_same(**{"The data": data, "The tokenizer": identity["tokenizer"]})

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
            tell(f"{run.directory / name} was missing or damaged; it is made again")
        return lines

    def look() -> None:
        if not run.exists():
            raise UserError(
                f"--workdir={run.directory} is not shared; name a directory that all processes see."
            )

    lines = hosts.on_first(open_it)
    hosts.together(look)
    return Opened(lines or [], lambda step: hosts.on_first(lambda: record(step)))


def mend_results(run: Run, stage: Stage, step: int) -> None:
    """Makes results.json again from the log, up to a step, where it is damaged or missing."""
    if run.results():
        return
    entries, _ = read_entries(run.directory / "metrics.jsonl", step)
    about = {"kind": stage.kind, "task": stage.task}
    if stage.positive_label is not None:
        about["positive_label"] = stage.positive_label
    found = make_results(entries, stage.score)
    if found:
        run.write_results(about | found)
    path = run.directory / "results.json"
    if found or path.exists():
        made = "it is made again from the log" if found else "the next evaluation makes it again"
        tell(f"{path} was missing or damaged; {made}")


def _is_kept(tokenizer: Tokenizer, run: Run) -> bool:
    try:
        return load_tokenizer(run.tokenizer).fingerprint() == tokenizer.fingerprint()
    except UserError:
        return False


def run_stage(
    stage: Stage,
    model: nn.Module,
    objective: Objective,
    config: Config,
    run: Run,
    mesh: Mesh,
    *,
    vocab_size: int,
    start: Callable[[State], State],
    samples: Sequence[Any],
    opened: Opened,
    lines: Sequence[str],
) -> State:
    """Carries out a stage under its mesh, going on from the run's newest checkpoint where there is one.

    Args:
        stage: batches and evaluation.
        model, objective: what is trained, and to what end.
        config: settled.
        run: its directory.
        mesh: in use.
        vocab_size: rows of the token table in use, for counting parameters.
        start: what a run that begins makes of the fresh state.
        samples: a row of each shape that the batches come in; the step is compiled for each.
        opened: what `begin` gave.
        lines: told when the log is open.

    Returns:
        The final state.

    Raises:
        Stopped: a signal asked for it; the state is saved.
        Diverged, DivergedAgain: the loss stayed without finite values.
        UserError: every checkpoint is damaged.
    """
    schedule = make_schedule(config.optimizer, config.train.num_steps)
    optimizer = make_optimizer(config.optimizer, schedule)
    abstract = abstract_state(model, optimizer, mesh)

    # ── Restore: this run's newest sound checkpoint, else a start ────────────────────────────────────────────
    checkpoints = Checkpoints(run.checkpoints, config.train.keep_checkpoints)
    divergence.go_back(run, checkpoints, tell)
    restored = checkpoints.restore_newest(abstract, tell)
    state: State = start(initial_state(model, optimizer, mesh, config.seed)) if restored is None else restored
    step, last = int(state.step), config.train.num_steps
    hosts.on_first(lambda: mend_results(run, stage, step))
    unevaluated = hosts.any_of(lacks_evaluation(run, config.train, step))  # a disk may show hosts old files
    if step > last or (step == last and not unevaluated):
        tell(f"{run.directory} is done: step {step} of {last}; raise train.num_steps or num_epochs to go on.")
        return state

    # ── Compile ──────────────────────────────────────────────────────────────────────────────────────────────
    opened.record(step)
    with contextlib.closing(MetricsLog(run.directory, step, last, unevaluated)) as log:
        resuming = f"resuming at step {step}" if step else "from the beginning"
        count = parameter_count(state.params, vocab_size)
        log.tell(
            f"{count:,} parameters, mesh {dict(mesh.shape)} of {jax.devices()[0].device_kind}; {resuming}"
        )
        placed = placements(abstract.params) if mesh.size > 1 else []
        for line in [*placed, *lines, *opened.lines]:
            log.tell(line)
        train_step = make_train_step(
            objective, optimizer, schedule, mesh, abstract, config.train.accumulation
        )
        programs = {
            sample.tokens.shape[1:]: _compile(
                train_step, abstract, sample, config.train.batch_size, mesh, log
            )
            for sample in samples
        }

        # ── Train ────────────────────────────────────────────────────────────────────────────────────────────
        hosts.wait()  # some compile faster than others
        with signals.something_to_save(), contextlib.closing(checkpoints):
            record = Record(stage, config.train, run, checkpoints, log, step)
            if unevaluated:
                record.evaluate(step, state)

            def run_step(state: State, batch: Any) -> tuple[State, dict[str, jax.Array]]:
                return programs[batch.tokens.shape[1:]](state, batch)

            final = train(stage, run_step, config.train, state, record, mesh)
            log.tell(f"peak memory {peak_memory()}")
    return final


def _compile(
    train_step: Any, abstract: State, sample: Any, batch_size: int, mesh: Mesh, log: MetricsLog
) -> Any:
    """The train step, compiled ahead of the clock for batches of a sample's shape, with a line on its cost."""
    began = time.perf_counter()
    place = batch_sharding(mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype, sharding=place), sample
    )
    compiled = compile_step(train_step, abstract, batch)
    memory = compiled.memory_analysis()
    gigabytes = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9
    shape = " × ".join(map(str, batch.tokens.shape))
    log.tell(
        f"compiled for {shape} tokens in {time.perf_counter() - began:.1f} s; {gigabytes:.2f} GB a device"
    )
    return compiled
