"""Checkpoints through orbax: complete or absent, verified bit by bit, restored on any mesh."""

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from orbax.checkpoint import v1 as ocp

from gpt1_jax.errors import WRONG_PATHS, Fault, UserError
from gpt1_jax.hashing import mix
from gpt1_jax.training import hosts

DAMAGED = "damaged"  # beside the checkpoints: those found unsound are moved here, not deleted


# What errors say that are the storage's or the network's, not the checkpoint's.
_PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED")


class Damaged(Exception):
    """A checkpoint on disk is not what was saved."""


class LeftAlone(Damaged):
    """Another process did not come along in reading it; that one knows why."""


class Checkpoints:
    """The checkpoints of one run directory: RUN/checkpoints/STEP/."""

    best: int | None = None  # the step that stays however old it grows

    def __init__(self, directory: epath.Path, keep: int | None = None) -> None:
        """Opens RUN/checkpoints; saving keeps the newest `keep` and the best, without it they are only read."""
        self.directory = directory if directory.is_absolute() else directory.resolve()  # for orbax
        self._keep = keep
        self._checkpointer: ocp.training.Checkpointer | None = None
        self._saving: Any = None  # orbax's response to the last save: it has a thread until it is asked

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending."""
        if not self.directory.exists():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())

    def save(self, step: int, state: Any) -> None:
        """Starts to save; training may go on and donate the state's buffers."""
        if self._checkpointer is None:
            self._checkpointer = ocp.training.Checkpointer(
                self.directory,
                preservation_policy=self,
                cleanup_tmp_directories=True,
            )
        self.wait()  # a save that finds another running is skipped without a word
        self._saving = self._checkpointer.save_async(
            step, state, force=True, custom_metadata=_seal(checksums(state))
        )
        if self._saving is None:
            raise RuntimeError(f"orbax did not save step {step}")

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Which checkpoints stay, as orbax asks its preservation policy; `checkpoints` ascend."""
        newest = len(checkpoints) - (self._keep or 0)
        return [i >= newest or checkpoint.step == self.best for i, checkpoint in enumerate(checkpoints)]

    def wait(self) -> None:
        """Returns when every save that was started is on disk."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        """Waits and lets go of the directory."""
        if self._checkpointer is not None:
            self.wait()
            self._checkpointer.close()
            self._checkpointer = None

    def restore(self, step: int, abstract: Any) -> Any:
        """What was saved at a step, with the shapes, dtypes and shardings of `abstract`.

        Args:
            step: one of `steps()`.
            abstract: a dictionary or NamedTuple of the saved parts, or of some of them.

        Raises:
            Damaged: it cannot be read, or a bit of it differs from what was saved.
            Fault: the storage fails, which says nothing about the checkpoint.
        """
        path = self.directory / str(step)
        try:
            saved = _unseal(ocp.metadata(path).custom_metadata)
            with _partial_loading():
                state = ocp.load(path, abstract)
        except (MemoryError, jax.errors.JaxRuntimeError):  # the machine's fault, not the checkpoint's
            raise
        except Exception as error:  # orbax and tensorstore raise everything, a bare Exception too
            raise _judged(error, step) from error
        found = checksums(state)
        wrong = [name for name, value in found.items() if saved.get(name) != value]
        if wrong:
            raise Damaged(
                f"the checksum of {wrong[0]} differs" + f" ({len(wrong)} arrays in all)" * (len(wrong) > 1)
            )
        return state

    def restore_newest(self, abstract: Any, tell: Callable[[str], None]) -> Any | None:
        """What the newest sound checkpoint holds of `abstract`, see `restore`; None where there is none yet.

        Damaged ones are named, and once an older one is found sound they are moved aside to RUN/damaged, unless
        the checkpoints are only read.

        Raises:
            UserError: there are checkpoints, and all are damaged.
            Fault: as `restore`, or the processes lost each other.
        """
        steps = self.steps()
        damaged = []

        def attempt(step: int) -> tuple[Any | None, Damaged | None]:
            try:
                return self.restore(step, abstract), None
            except Damaged as error:
                return None, error

        for step in reversed(steps):
            state, damage = hosts.together(lambda step=step: attempt(step))
            if hosts.any_of(state is None):
                seen = None if isinstance(damage, LeftAlone) else damage
                if not hosts.any_of(seen is not None):
                    raise Fault(f"The processes could not read checkpoint {step} together; start them again.")
                reason = seen or "another process could not read it"
                tell(f"checkpoint {step} is damaged ({reason}); passing it over")
                damaged.append(step)
                continue
            if self._keep is not None:
                for bad in damaged:
                    tell(f"checkpoint {bad} is moved to {self._aside(bad)}")
                hosts.on_first(lambda: [self._set_aside(bad) for bad in damaged])
            return state
        if steps:
            raise UserError(
                f"All checkpoints of {self.directory} are damaged (steps {steps}); "
                "start again with another --workdir, or restore that directory from a copy."
            )
        return None

    def _aside(self, step: int) -> epath.Path:
        return self.directory.parent / DAMAGED / str(step)

    def _set_aside(self, step: int) -> None:
        aside = self._aside(step)
        aside.parent.mkdir(exist_ok=True)
        if aside.exists():
            aside.rmtree()
        (self.directory / str(step)).rename(aside)


def _partial_loading() -> ocp.Context:
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    return context


@jax.jit
def _checksums(leaves: list[jax.Array]) -> list[jax.Array]:
    def one(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
        index = jnp.uint32(0)  # row-major; made without a reshape, which would gather a sharded array
        for axis, size in enumerate(x.shape):
            index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        return mix(bits + mix(index + 1)).sum(dtype=jnp.uint32)

    return [one(x) for x in leaves]


def checksums(state: Any) -> dict[str, int]:
    """A checksum of each array, by its path, made on the devices that hold it and equal on every mesh.

    Σ mix(bits + mix(index + 1)) modulo 2³² over arrays of 32-bit numbers: sees swapped rows and flipped bits.
    """
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    sums = jax.device_get(_checksums([leaf for _, leaf in leaves]))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): int(value)
        for (path, _), value in zip(leaves, sums, strict=True)
    }


def _seal(sums: dict[str, int]) -> dict[str, Any]:
    text = json.dumps(sums, sort_keys=True)
    return {"checksums": text, "crc32": zlib.crc32(text.encode())}


def _unseal(metadata: Any) -> dict[str, int]:
    if not isinstance(metadata, dict) or "checksums" not in metadata:
        raise Damaged("its metadata is missing")
    if zlib.crc32(metadata["checksums"].encode()) != metadata.get("crc32"):
        raise Damaged("its metadata has changed")
    return json.loads(metadata["checksums"])


def _judged(error: BaseException, step: int) -> Exception:
    """What an error in reading a checkpoint means."""
    reason = _reason(error)
    first = _first(error)
    if isinstance(first, PermissionError):
        return first
    gone = isinstance(first, (FileNotFoundError, *WRONG_PATHS))
    if (isinstance(first, OSError) and not gone) or any(word in reason for word in _PASSING):
        return Fault(f"Checkpoint {step} cannot be read now ({reason}); run the same command again.")
    return LeftAlone(reason) if "barrier" in reason.lower() else Damaged(reason)


def _first(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    error = _first(error)
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
