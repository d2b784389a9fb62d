"""The run directory: everything a run leaves, self-contained, and the interface between the commands."""

import json
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
    """Paths and small files of one run directory."""

    def __init__(self, directory: str, name: str = "--workdir") -> None:
        """Takes the directory, and the flag or field that names it, for errors."""
        self.directory = expand(directory, name)
        self.tokenizer = self.directory / "tokenizer"
        self.checkpoints = self.directory / "checkpoints"
        self._lock: Any = None

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return any((self.directory / name).exists() for name in ("config.json", _HISTORY))

    def config(self) -> Config:
        """The config of the run: config.json, or the history's newest where a crash has damaged that.

        What decides shapes or batches is always the history's, which is sealed.

        Raises:
            UserError: there is no run here, or its config cannot be read.
        """
        if not self.exists():
            raise UserError(
                f"{self.directory} is not a run directory: it has no config.json; name one that has."
            )
        recorded = self._recorded()
        try:
            written = self._config_file()
        except UserError as error:
            if recorded is None:
                raise
            logging.warning("%s Its config in %s serves.", error, _HISTORY)
            return recorded
        if recorded is None:
            return written
        different = [change for change in _differences(recorded, written) if change.fixed]
        if different:
            logging.warning(
                "%s is damaged (%s); the config in %s serves.",
                self.directory / "config.json",
                "; ".join(map(str, different)),
                _HISTORY,
            )
            return recorded
        return written

    def changes(self, config: Config) -> list[str]:
        """The keys of this run's config that are others in `config`, as "key: old → new".

        Raises:
            UserError: among them is one that decides the parameters' shapes or the order of batches.
        """
        changed = _differences(self._recorded() or self.config(), config)
        for change in changed:
            comes_or_goes = change.key == "init_from" and None in (change.old, change.new)
            if change.fixed or comes_or_goes:
                raise UserError(
                    f"{self.directory} was begun with {change.key}={change.old}, not {change.new}, and cannot go on "
                    "with another; set it back, or start a new run with another --workdir."
                )
        return [str(change) for change in changed]

    def check(self, config: Config, identity: dict[str, Any]) -> list[str]:
        """Whether the run can go on with a config and a text; nothing is written.

        Args:
            config: the resolved config.
            identity: what the corpus and the tokenizer are, compared with what they were.

        Returns:
            A sentence for each key that has changed since the run was begun, or at this start.

        Raises:
            UserError: as `changes`, or the text, its validation part or the tokenizer is another.
        """
        self.changes(config)
        before = self.identity()
        # The tokenizer first, on which the tokens of all texts depend.
        for name in sorted(identity, key=lambda name: name != "tokenizer") if before else ():
            begun_earlier = name == "validation" and name not in before
            if before.get(name) != identity[name] and not begun_earlier:
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
        """Writes what the steps behind `step` are trained with: the small files, their seals, the config last.

        Args:
            config: the resolved config.
            identity: what the corpus and the tokenizer are.
            step: where the run goes on; 0 for a new one.
            files: further JSON files of the run, by their names.
        """
        stretches, _ = self._history()
        if not stretches and self.exists():  # begun before there were histories
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
        """Makes small files again that are damaged or missing, and returns their names.

        Args:
            identity: what the corpus and the tokenizer are, where it is not known what they were.
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
        """Why a run cannot go on whose text, validation part or tokenizer has another content than at its beginning."""
        begun = self.config().data
        if name == "tokenizer":
            return UserError(
                f"data.tokenizer={config.data.tokenizer} is another tokenizer than {self.directory} was begun with; "
                f"set data.tokenizer={begun.tokenizer}, which its own copy serves, or start a new run with another "
                "--workdir."
            )
        before = "" if begun.source == config.data.source else f" data.source={begun.source}"
        if name == "validation":
            return UserError(
                f"data.source={config.data.source} has not the validation part that {self.directory} was begun with"
                f"{before}, so that its scores could not be compared; bring that back as it was, or start a new run "
                "with another --workdir."
            )
        return UserError(
            f"data.source={config.data.source} has not the content that {self.directory} was begun with{before}; bring "
            "the text back as it was, or start a new run with another --workdir."
        )

    def identity(self) -> dict[str, Any]:
        """What the corpus and the tokenizer were when the run was begun; empty where that is lost.

        Fingerprints by name: "text" of what is learned from, "tokenizer", and "validation" of a task's, which runs of
        earlier versions lack.
        """
        stretches, _ = self._history()
        if stretches:
            return stretches[-1].identity
        found = read_json(self.directory / "corpus.json")
        return found if isinstance(found, dict) else {}

    def read_file(self, name: str) -> dict[str, Any] | None:
        """What a further JSON file of the run holds; None where it is missing, or not what the run wrote."""
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

    def _history(self) -> tuple[list[Stretch], bool]:
        return read_history(self.directory / _HISTORY)

    def _recorded(self) -> Config | None:
        """The newest config of the history; None where there is none."""
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
        """Holds the directory for this process until it ends; a remote directory is not locked.

        Raises:
            UserError: another process trains here.
        """
        if "://" in str(self.directory):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = (self.directory / ".lock").open("a")  # which empties nothing, wherever a link leads
        if not lock(self._lock.fileno(), self.directory):
            raise UserError(
                f"--workdir={self.directory} is in use by another process; wait for it or name another directory."
            )

    def results(self) -> dict[str, Any]:
        """The last and the best evaluation; empty before the first."""
        found = read_json(self.directory / "results.json")
        return found if _is_result(found) else {}

    def write_results(self, results: dict[str, Any]) -> None:
        """Replaces results.json, whole."""
        write_json(self.directory / "results.json", results)


def inherit(values: dict[str, Any], workdir: str) -> dict[str, Any]:
    """A config's dictionaries with the architecture and the tokenizer it leaves open, as fine-tuning does.

    They are those of the run in `workdir`, or, where none was begun there, of the run that init_from names. A run
    that goes on keeps the rules it was begun under, see `keep_before`.

    Raises:
        UserError: there is something to fill in, and no init_from to take it from.
    """
    begun = Run(workdir)
    if begun.exists():
        values = keep_before(values, to_dict(begun.config()))
    if not all(isinstance(values.get(section), dict) for section in ("model", "data")):
        return values  # for `from_dict` to judge
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
                "config.init_from is missing; name the run directory of a pre-trained model, which gives architecture "
                "and tokenizer even where finetune.num_transfer_layers=-1 transfers no parameters."
            )
        begun = Run(values["init_from"], "init_from")
    theirs, filled = to_dict(begun.config()), dict(values)
    for key in open_keys:
        section, name = key.split(".")
        filled[section] = filled[section] | {name: theirs[section][name]}
    return filled


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON so that the file is the old or the new one at every moment."""
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
    """Whether it has the form of results.json."""
    if not isinstance(found, dict) or type(found.get("step")) is not int:
        return False
    best = found.get("best")
    return isinstance(found.get("validation"), dict) and (
        best is None or (isinstance(best, dict) and type(best.get("step")) is int)
    )
