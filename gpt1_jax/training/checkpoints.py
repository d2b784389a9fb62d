"""Checkpoints through orbax: complete or absent, verified bit by bit, restored on any mesh."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
from absl import logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from gpt1_jax.devices import hosts
from gpt1_jax.disk.moving import move
from gpt1_jax.errors import Fault, UserError
from gpt1_jax.training import ledger
from gpt1_jax.training.checksums import checksums, seal, unseal
from gpt1_jax.training.damage import Damaged, LeftAlone, judged, reason_of
from gpt1_jax.training.literal_paths import LiteralPath, check_storable
from gpt1_jax.training.noise import keep_back
from gpt1_jax.wording import counted

# Unsound checkpoints, and those of a training that diverged, are moved to these siblings of RUN/checkpoints, not
# deleted.
DAMAGED = "damaged"
DIVERGED = "diverged"

# Part of the names of checkpoints that orbax is still writing.
_UNFINISHED = ".orbax-checkpoint-tmp"

# A trainer may replace a checkpoint while it is read; a newer one is looked for this many times.
_LOOKS = 20

keep_back()


class Checkpoints:
    """The checkpoints of one run directory: RUN/checkpoints/STEP/."""

    # This step stays however old it grows.
    best: int | None = None
    # So do all powers of two, if this is set.
    log_spaced: bool = False
    # All from this step on stay, since a divergence goes back to it.
    proven: int | None = None

    def __init__(self, directory: epath.Path, keep: int | None = None) -> None:
        """Opens RUN/checkpoints; saving keeps the newest `keep` and the best, and without `keep` nothing is saved.

        Raises:
            UserError: the directory has a name below which checkpoints cannot be stored.
        """
        # orbax needs an absolute path.
        directory = directory if directory.is_absolute() else directory.resolve()
        self._remote = "://" in str(directory)
        if not self._remote:
            check_storable(directory)
        self.directory = directory if self._remote else LiteralPath(directory)
        self._keep = keep
        # The step of the last save, and the result of its thread.
        self._saving: tuple[int, Future[None]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, ascending."""
        if not self.directory.exists():
            return []
        found = [path for path in self.directory.iterdir() if re.fullmatch("[0-9]+", path.name)]
        return sorted(int(path.name) for path in found if not self._remote or _is_committed(path))

    def save(self, step: int, state: Any) -> None:
        """Starts to save; training may go on and donate the state's buffers.

        The first save of a process is waited for and read again, so that unreadable checkpoints are noticed while
        little is lost.

        Args:
            step: a step without a checkpoint.
            state: a NamedTuple or a dictionary with `step` among its arrays.

        Raises:
            Fault: the state cannot be saved, or the save before failed.
        """
        self.wait()
        # Process 0 may still be removing old ones.
        hosts.wait()
        sums = checksums(state)
        first = self._thread is None
        with self._explained(step):
            if self._thread is None:
                hosts.on_first(self._clear)
                self._thread = ThreadPoolExecutor(1, "save")
            surplus = self._surplus([*self.steps(), step])
            # orbax's Checkpointer is not used: if a save fails on one process, it waits for the others before it says
            # so.
            saved = ocp.save_async(self.directory / str(step), state, custom_metadata=seal(sums))
            self._saving = step, self._thread.submit(self._finish, saved, surplus, step, sums)
        if first:
            self.wait()
            self._look_at(step, state)

    def _clear(self) -> None:
        """Makes the directory, and removes what killed saves have left in it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # A bucket has no directories but those in the names of its files.
        for path in self.directory.iterdir() if self.directory.exists() else ():
            half_written = self._remote and path.name.isdecimal() and not _is_committed(path)
            if half_written or _UNFINISHED in path.name:
                path.rmtree()

    def _surplus(self, steps: list[int]) -> list[int]:
        """Returns which of the ascending steps have checkpoints to be removed."""
        older = [step for step in steps if step not in steps[-self._keep :]] if self._keep else []
        if self.log_spaced:
            older = [step for step in older if not is_log_spaced(step)]
        return [step for step in older if step != self.best and (self.proven is None or step < self.proven)]

    def _finish(
        self, saved: ocp.AsyncResponse[None], surplus: Sequence[int], step: int, sums: dict[str, int]
    ) -> None:
        """Waits for a save, enters it into the ledger, and removes older ones, or leaves that to the next save."""
        saved.result()
        if hosts.first():
            ledger.enter(self.directory.parent, step, sums)
        for step in surplus if hosts.first() else ():
            try:
                (self.directory / str(step)).rmtree()
            except OSError as error:
                logging.warning("Checkpoint %d could not be removed yet (%s).", step, error.strerror or error)

    def watch(self) -> None:
        """Checks, without waiting, whether the save in the background has failed on this process.

        Raises:
            Fault: it has failed.
        """
        if self._saving is not None and self._saving[1].done():
            self.wait()

    def wait(self) -> None:
        """Waits until every save that was started is on disk.

        Raises:
            Fault: the last one failed.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            with self._explained(saving[0]):
                saving[1].result()

    def close(self) -> None:
        """Waits as `wait` does, and ends the thread that saves."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    @contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        """Turns errors in saving into sentences."""
        try:
            yield
        # These are the machine's fault, not the storage's.
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        # orbax and tensorstore raise all kinds of errors.
        except Exception as error:
            older = [other for other in self.steps() if other != step]
            left = f"checkpoint {older[-1]} is the newest whole one" if older else "there is none before it"
            raise Fault(
                f"Checkpoint {step} could not be saved in {self.directory} ({reason_of(error)}); {left}. Fix that, and "
                "run the same command again to go on."
            ) from error

    def _look_at(self, step: int, state: Any) -> None:
        """Reads the smallest array of a new checkpoint, which requires all of the checkpoint's descriptions."""
        array = state["step"] if isinstance(state, dict) else state.step
        like = jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
        try:
            self.restore(step, {"step": like})
        except Damaged as error:
            raise Fault(
                f"Checkpoint {step}, just saved in {self.directory}, cannot be read again ({error}), so further "
                "training would be lost; try another --workdir."
            ) from error

    def sums(self, step: int) -> dict[str, int]:
        """Returns the checksums of what was saved at a step, by the names of the arrays.

        Raises:
            Damaged: there is no such checkpoint, or it cannot be read.
            Fault: as in `restore`.
        """
        try:
            return unseal(ocp.metadata(self.directory / str(step)).custom_metadata)
        except Exception as error:  # as in `restore`
            raise judged(error, step) from error

    def sums_of_arrays(self, step: int) -> dict[str, int]:
        """Returns the checksums of the arrays that a checkpoint now holds, whatever they are; one device reads them.

        Raises:
            Damaged, Fault: as in `sums`.
        """
        path, place = self.directory / str(step), jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        try:
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), ocp.metadata(path).metadata
            )
            return checksums(ocp.load(path, abstract))
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # as in `restore`
            raise judged(error, step) from error

    def restore(self, step: int, abstract: Any) -> Any:
        """Returns what was saved at a step, with the shapes, dtypes and shardings of `abstract`.

        Args:
            step: one of `steps()`.
            abstract: a dictionary or NamedTuple of the saved parts, or of some of them.

        Raises:
            Damaged: the checkpoint cannot be read, or differs in some bit from what was saved.
            Fault: the storage fails, which says nothing about the checkpoint.
        """
        path = self.directory / str(step)
        try:
            saved = unseal(ocp.metadata(path).custom_metadata)
            with _partial_loading():
                state = ocp.load(path, abstract)
            _check_form(state, abstract)
        except (MemoryError, jax.errors.JaxRuntimeError):  # the machine's fault, not the checkpoint's
            raise
        except Exception as error:  # orbax and tensorstore raise everything, a bare Exception too
            raise judged(error, step) from error
        found = checksums(state)
        wrong = [name for name, value in found.items() if saved.get(name) != value]
        if wrong:
            raise Damaged(
                f"the checksum of {wrong[0]} differs"
                + f" ({counted(len(wrong), 'array')} in all)" * (len(wrong) > 1)
            )
        return state

    def restore_newest(
        self, abstract: Any, tell: Callable[[str], None], rather: int | None = None
    ) -> Any | None:
        """Returns the parts in `abstract` from the newest sound checkpoint, see `restore`; None if there is none yet.

        If the one of step `rather` is sound, that one is taken instead.

        Damaged checkpoints are named. Once an older one is found sound, they are moved to RUN/damaged, unless
        checkpoints are only read. In that case a trainer may remove one during reading; that one is not damaged, and
        the newest is looked for again.

        Raises:
            UserError: there are checkpoints, and all are damaged.
            Fault: as in `restore`, the processes lost each other, or checkpoints are replaced faster than they are
                read.
        """
        damaged: list[int] = []
        for _ in range(_LOOKS):
            steps = self.steps()
            candidates = [step for step in steps if step not in damaged]
            if not candidates:
                break
            step = rather if rather in candidates else candidates[-1]
            state, damage = hosts.together(lambda step=step: self._attempt(step, abstract))
            if not hosts.any_of(state is None):
                if self._keep is not None:
                    self._keep_apart(damaged, tell)
                return state
            now = self.steps()
            if self._keep is None and (step not in now or now[-1] != steps[-1]):
                continue
            seen = None if isinstance(damage, LeftAlone) else damage
            if not hosts.any_of(seen is not None):
                raise Fault(f"The processes could not read checkpoint {step} together; start them again.")
            reason = seen or "another process could not read it"
            tell(f"checkpoint {step} is damaged ({reason}); passing it over")
            damaged.append(step)
        else:
            raise Fault(
                f"The checkpoints of {self.directory} are replaced faster than they can be read; try again."
            )
        if damaged:
            raise UserError(
                f"All checkpoints of {self.directory} are damaged (steps {steps}); start again with another --workdir, "
                "or restore that directory from a copy."
            )
        return None

    def go_back(self, step: int) -> list[int]:
        """Moves the checkpoints after a step to RUN/diverged, before anything is saved; returns their steps.

        If there are several processes, all of them must call this.
        """
        hosts.on_first(lambda: ledger.set_aside(self.directory.parent, step))
        newer = [other for other in self.steps() if other > step]
        hosts.on_first(lambda: [self._set_aside(other, DIVERGED) for other in newer])
        return newer

    def _attempt(self, step: int, abstract: Any) -> tuple[Any | None, Damaged | None]:
        try:
            return self.restore(step, abstract), None
        except Damaged as error:
            return None, error

    def _keep_apart(self, damaged: list[int], tell: Callable[[str], None]) -> None:
        hosts.on_first(lambda: [self._set_aside(bad, DAMAGED) for bad in damaged])
        for bad in damaged:
            tell(f"checkpoint {bad} has been moved to {self.directory.parent / DAMAGED / str(bad)}")

    def _set_aside(self, step: int, where: str) -> None:
        aside = self.directory.parent / where / str(step)
        if aside.exists():
            aside.rmtree()
        move(self.directory / str(step), aside)


def is_log_spaced(step: int) -> bool:
    """Returns whether a step is a power of two, as the steps of `train.keep_log_spaced` are."""
    return step > 0 and step & (step - 1) == 0


def _is_committed(path: epath.Path) -> bool:
    """Returns whether a checkpoint is complete on a store that cannot rename: orbax writes this file last."""
    return (path / "commit_success.txt").exists()


def _partial_loading() -> ocp.Context:
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    return context


def _check_form(state: Any, abstract: Any) -> None:
    """Checks that everything is there with its shape, since orbax leaves out what a checkpoint lacks."""
    for (path, like), leaf in zip(
        jax.tree_util.tree_flatten_with_path(abstract)[0], jax.tree.leaves(state), strict=True
    ):
        if not isinstance(leaf, jax.Array) or (leaf.shape, leaf.dtype) != (like.shape, like.dtype):
            raise Damaged(f"it has no {jax.tree_util.keystr(path, simple=True, separator='/')} that fits")
