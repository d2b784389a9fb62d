"""The run directory holds everything that a run leaves behind, and is the interface between the commands."""

import json
import os
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from absl import logging
from etils import epath

from gpt1_jax.config import Config, schema
from gpt1_jax.disk.history import Stretch, extend, read_history, read_json, seal, write_history
from gpt1_jax.disk.locks import lock
from gpt1_jax.disk.paths import expand
from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.errors import UserError
from gpt1_jax.old_runs import fill_before, keep_before
from gpt1_jax.overrides import flatten, from_dict, to_dict

NO_FILES: Mapping[str, Any] = MappingProxyType({})

_HISTORY = "history.json"


class Run:
    """The paths and the small files of one run directory."""

    def __init__(self, directory: str, name: str = "--workdir") -> None:
        """Takes the directory, and the flag or field that names it, for errors."""
        self.directory = expand(directory, name)
        self.tokenizer = self.directory / "tokenizer"
        self.checkpoints = self.directory / "checkpoints"

    def exists(self) -> bool:
        """Returns whether a run was begun here."""
        return any((self.directory / name).exists() for name in ("config.json", _HISTORY))

    def config(self) -> Config:
        """Returns the config of the run: config.json, or the newest in the history if a crash has damaged that file.

        Keys that decide shapes or batches always come from the history, which is sealed.

        Raises:
            UserError: there is no run here, or its config cannot be read.
        """
        if not self.exists():
            raise UserError(
                f"{self.directory} is not a run directory: it has no config.json; name one that has it."
            )
        recorded = self._recorded()
        try:
            written = self._config_file()
        except UserError as error:
            if recorded is None:
                raise
            logging.warning("%s The config in %s is used instead.", error, _HISTORY)
            return recorded
        if recorded is None:
            return written
        different = [change for change in _differences(recorded, written) if change.fixed]
        if different:
            logging.warning(
                "%s is damaged (%s); the config in %s is used instead.",
                self.directory / "config.json",
                "; ".join(map(str, different)),
                _HISTORY,
            )
            return recorded
        return written

    def changes(self, config: Config) -> list[str]:
        """Returns the keys whose value differs between this run and `config`, as "key: old → new".

        Raises:
            UserError: one of them decides the parameters' shapes or the order of batches.
        """
        changed = _differences(self._recorded() or self.config(), config)
        for change in changed:
            comes_or_goes = change.key == "init_from" and None in (change.old, change.new)
            if change.fixed or comes_or_goes:
                raise UserError(
                    f"{self.directory} was begun with {change.key}={change.old}, not {change.new}, and this cannot "
                    "change within a run; set it back, or start a new run with another --workdir."
                )
        return [str(change) for change in changed]

    def check(self, config: Config, identity: dict[str, Any]) -> list[str]:
        """Checks that the run can be resumed with a config and a text; writes nothing.

        Args:
            config: the resolved config.
            identity: the identity of the corpus and the tokenizer, which is compared with the run's.

        Returns:
            A sentence for each key that has changed since the run was begun, or at this start.

        Raises:
            UserError: as in `changes`, or the text, its validation part or the tokenizer differs.
        """
        self.changes(config)
        before = self.identity()
        # The tokenizer comes first, since the tokens of every text depend on it.
        names = {*identity, *({"without"} & before.keys())} if before else ()
        for name in sorted(names, key=lambda name: (name != "tokenizer", name)):
            begun_earlier = name == "validation" and name not in before
            if before.get(name) != identity.get(name) and not begun_earlier:
                raise self._foreign(name, config)
        stretches, _ = self._history()
        last = self._recorded() or self.config()
        first = _parsed(stretches[0].config) if stretches else last
        now = {change.key: change for change in _differences(last, config)}
        lines = []
        for change in _differences(first, config):
            if change.key in now and first != last:
                lines.append(f"changed since the run was begun: {change}, at this start")
            else:
                lines.append(f"changed since the run was begun: {change}")
            now.pop(change.key, None)
        return lines + [f"changed at this start: {change}, as it was at first" for change in now.values()]

    def record(
        self, config: Config, identity: dict[str, Any], step: int = 0, files: Mapping[str, Any] = NO_FILES
    ) -> None:
        """Writes what the steps after `step` are trained with: small files, their seals, and the config last.

        Args:
            config: the resolved config.
            identity: the identity of the corpus and the tokenizer.
            step: where the run is resumed, or 0 for a new run.
            files: further JSON files of the run, by their names.
        """
        stretches, _ = self._history()
        # An older version began the run, without a history.
        if not stretches and self.exists():
            stretches = [Stretch(0, to_dict(self.config()), self.identity(), {})]
        seals = {name: seal(value) for name, value in files.items()}
        now = Stretch(step, to_dict(config), identity, seals)
        self.directory.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            write_json(self.directory / name, value)
        write_json(self.directory / "corpus.json", identity)
        write_history(self.directory / _HISTORY, extend(stretches, now))
        write_json(self.directory / "config.json", to_dict(config))

    def mend(self, identity: dict[str, Any], files: Mapping[str, Any] = NO_FILES) -> list[str]:
        """Restores small files that are damaged or missing, and returns their names.

        Args:
            identity: the identity of the corpus and the tokenizer, in case the run's own record of it is lost.
            files: further JSON files of the run as they should be, by their names.
        """
        stretches, damaged = self._history()
        mended = []
        config = self.config()
        try:
            sound = not any(change.fixed for change in _differences(self._config_file(), config))
        except UserError:
            sound = False
        if not sound:
            write_json(self.directory / "config.json", to_dict(config))
            mended.append("config.json")
        for name, value in {**files, "corpus.json": self.identity() or identity}.items():
            if self.read_file(name) is None:
                write_json(self.directory / name, value)
                mended.append(name)
        if damaged:
            first = Stretch(0, to_dict(config), self.identity(), {name: seal(files[name]) for name in files})
            write_history(self.directory / _HISTORY, stretches or [first])
            mended.append(_HISTORY)
        return mended

    def _foreign(self, name: str, config: Config) -> UserError:
        """Returns the error for a run whose text, validation part or tokenizer differs from what it was begun with."""
        begun = self.config().data
        if name == "tokenizer":
            return UserError(
                f"data.tokenizer={config.data.tokenizer} differs from the tokenizer that {self.directory} was begun "
                f"with; set data.tokenizer={begun.tokenizer}, for which its own copy is used, or start a new run with "
                "another --workdir."
            )
        if name == "without":
            return UserError(
                f"data.without={config.data.without} does not leave out the documents that {self.directory} was begun "
                "without (their numbers are in its without.json, if it left out any); set it back as it was, or start "
                "a new run with another --workdir."
            )
        before = "" if begun.source == config.data.source else f" (data.source={begun.source})"
        if name == "validation":
            return UserError(
                f"data.source={config.data.source} does not have the validation part that {self.directory} was begun "
                f"with{before}, so scores could not be compared; restore that part, or start a new run with another "
                "--workdir."
            )
        return UserError(
            f"data.source={config.data.source} does not have the content that {self.directory} was begun with{before}; "
            "restore the text, or start a new run with another --workdir."
        )

    def identity(self) -> dict[str, Any]:
        """Returns the identity of the corpus and the tokenizer when the run was begun, or nothing if it is lost.

        It consists of fingerprints by name: "text" of the training text, "tokenizer", for a task "validation", which
        runs of older versions lack, and "without" if documents were left out.
        """
        stretches, _ = self._history()
        if stretches:
            return stretches[-1].identity
        found = read_json(self.directory / "corpus.json")
        return found if isinstance(found, dict) else {}

    def read_file(self, name: str) -> dict[str, Any] | None:
        """Reads a further JSON file of the run; returns None if it is missing, or not as the run wrote it."""
        found = read_json(self.directory / name)
        if not isinstance(found, dict):
            return None
        stretches, _ = self._history()
        if not stretches:
            return found
        newest = stretches[-1]
        if name == "corpus.json":
            return found if found == newest.identity else None
        return found if newest.files.get(name, seal(found)) == seal(found) else None

    def stretches(self) -> list[Stretch]:
        """Returns what each stretch of the run's steps was trained with, as far as that is known."""
        return self._history()[0]

    def _history(self) -> tuple[list[Stretch], bool]:
        return read_history(self.directory / _HISTORY)

    def _recorded(self) -> Config | None:
        """Returns the newest config of the history, or None if there is none."""
        stretches, _ = self._history()
        return _parsed(stretches[-1].config) if stretches else None

    def _config_file(self) -> Config:
        path = self.directory / "config.json"
        try:
            return _parsed(json.loads(path.read_bytes()))
        except FileNotFoundError:
            raise UserError(f"{path} is missing; restore it from a copy.") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not readable JSON ({error}); restore it from a copy.") from error
        except (UserError, TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}); restore it from a copy.") from error

    def lock(self) -> None:
        """Locks the directory for this process as long as this object lives; a remote directory is not locked.

        Raises:
            UserError: another process trains here.
        """
        if "://" in str(self.directory):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        # This empties no file, even if a link leads to one.
        descriptor = os.open(self.directory / ".lock", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, descriptor)
        if not lock(descriptor, self.directory):
            raise UserError(
                f"--workdir={self.directory} is in use by another process; wait for it or name another directory."
            )

    def results(self) -> dict[str, Any]:
        """Returns the last and the best evaluation, or nothing before the first."""
        found = read_json(self.directory / "results.json")
        return found if _is_result(found) else {}

    def write_results(self, results: dict[str, Any]) -> None:
        """Replaces results.json, all at once."""
        write_json(self.directory / "results.json", results)


def inherit(values: dict[str, Any], workdir: str) -> dict[str, Any]:
    """Fills in the architecture and the tokenizer that a config leaves open, as fine-tuning does.

    They come from the run in `workdir` or, if there is none, from the run that init_from names. A run that is resumed
    keeps the rules it was begun with, see `keep_before`.

    Raises:
        UserError: something has to be filled in, and there is no init_from to take it from.
    """
    begun = Run(workdir)
    if begun.exists():
        values = keep_before(values, to_dict(begun.config()))
    if not all(isinstance(values.get(section), dict) for section in ("model", "data")):
        # `from_dict` reports what is wrong.
        return values
    tokenizer = ("data.tokenizer", "data.vocab_size")
    given = flatten(values)
    inherited = [
        key.name
        for key in schema().values()
        if key.architecture or key.name.startswith("model.") or key.name in tokenizer
    ]
    open_keys = [name for name in inherited if given.get(name, "") is None]
    if not open_keys:
        return values
    if not begun.exists():
        if values.get("init_from") is None:
            raise UserError(
                "config.init_from is missing; name the run directory of a pre-trained model, which supplies "
                "architecture and tokenizer even where finetune.num_transfer_layers=-1 transfers no parameters."
            )
        begun = Run(values["init_from"], "init_from")
    theirs, filled = to_dict(begun.config()), dict(values)
    for key in open_keys:
        section, name = key.split(".")
        filled[section] = filled[section] | {name: theirs[section][name]}
    return filled


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON so that the file holds either the old or the new value at every moment."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


class _Change(NamedTuple):
    key: str
    old: Any
    new: Any
    fixed: bool

    def __str__(self) -> str:
        return f"{self.key}: {self.old} → {self.new}"


def _differences(old: Config, new: Config) -> list[_Change]:
    one, other, known = flatten(to_dict(old)), flatten(to_dict(new)), schema()
    return [
        _Change(name, one.get(name), other.get(name), name in known and known[name].fixed)
        for name in one | other
        if one.get(name) != other.get(name)
    ]


def _parsed(values: Any) -> Config:
    return from_dict(fill_before(values))


def _is_result(found: Any) -> bool:
    """Returns whether a value has the form of results.json."""
    if not isinstance(found, dict) or type(found.get("step")) is not int:
        return False
    best = found.get("best")
    return isinstance(found.get("validation"), dict) and (
        best is None or (isinstance(best, dict) and type(best.get("step")) is int)
    )
