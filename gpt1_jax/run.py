"""The run directory: everything a run leaves, self-contained, and the interface between the commands."""

import json
from typing import Any

from etils import epath

from gpt1_jax.config import Config, fill_before, from_dict, keep_before, to_dict
from gpt1_jax.errors import UserError
from gpt1_jax.locks import lock
from gpt1_jax.paths import expand
from gpt1_jax.whole_files import write_whole

# What a resumed run must share with its beginning: these decide the state's shapes and which batch is next.
FIXED = (
    "seed",
    "init_from",
    "model.kind",
    "model.num_layers",
    "model.num_heads",
    "model.d_model",
    "model.d_ff",
    "model.context_length",
    "data.source",
    "data.tokenizer",
    "data.vocab_size",
    "data.split_seed",
    "train.batch_size",
    "optimizer.name",
    "finetune.task",
    "finetune.num_transfer_layers",
    "finetune.scores",
    "finetune.max_examples",
    "finetune.kind",
    "finetune.columns",
    "finetune.positive_label",
)


class Run:
    """Paths and small files of one run directory."""

    def __init__(self, directory: str) -> None:
        self.directory = expand(directory, "--workdir")
        self.tokenizer = self.directory / "tokenizer"
        self.checkpoints = self.directory / "checkpoints"
        self._lock: Any = None

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.directory / "config.json").exists()

    def config(self) -> Config:
        """The config of the run.

        Raises:
            UserError: there is no run here, or its config cannot be read.
        """
        path = self.directory / "config.json"
        if not path.exists():
            raise UserError(
                f"{self.directory} is not a run directory: it has no config.json; name one that has."
            )
        try:
            return from_dict(fill_before(json.loads(path.read_text())))
        except ValueError as error:
            raise UserError(f"{path} is not readable JSON ({error}); restore it from a copy.") from error

    def changes(self, config: Config) -> list[str]:
        """The keys of this run's config that are others in `config`, as "key: old → new".

        Raises:
            UserError: among them is one that decides the parameters' shapes or the order of batches.
        """
        changed = []
        old, new = _flatten(to_dict(self.config())), _flatten(to_dict(config))
        for key in [key for key in old | new if old.get(key) != new.get(key)]:
            if key in FIXED:
                raise UserError(
                    f"{self.directory} was begun with {key}={old.get(key)}, not {new.get(key)}, and cannot go on with "
                    "another; set it back, or start a new run with another --workdir."
                )
            changed.append(f"{key}: {old.get(key)} → {new.get(key)}")
        return changed

    def begin(self, config: Config, identity: dict[str, Any]) -> list[str]:
        """Makes the directory, or opens it to go on; then its config is the new one.

        Args:
            config: the resolved config.
            identity: what the corpus and the tokenizer are, compared with what they were.

        Returns:
            What `changes` tells of a run that goes on.

        Raises:
            UserError: as `changes`, or the text or the tokenizer is another.
        """
        changed = []
        if self.exists():
            changed = self.changes(config)
            before = self.identity()
            for name in identity:
                if before.get(name) != identity[name]:
                    raise UserError(
                        f"data.source={config.data.source} is not what {self.directory} was begun with (its {name} "
                        f"was {before.get(name)}, now {identity[name]}); bring the text back as it was, or start a "
                        "new run with another --workdir."
                    )
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self.directory / "corpus.json", identity)
        write_json(self.directory / "config.json", to_dict(config))
        return changed

    def identity(self) -> dict[str, Any]:
        """What the corpus and the tokenizer were when the run was begun; empty where that is lost."""
        path = self.directory / "corpus.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def lock(self) -> None:
        """Holds the directory for this process until it ends; a remote directory is not locked.

        Raises:
            UserError: another process trains here.
        """
        if "://" in str(self.directory):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = (self.directory / ".lock").open("w")
        if not lock(self._lock.fileno(), self.directory):
            raise UserError(
                f"--workdir={self.directory} is in use by another process; wait for it or name another directory."
            )

    def results(self) -> dict[str, Any]:
        """The last and the best evaluation; empty before the first."""
        path = self.directory / "results.json"
        return json.loads(path.read_text()) if path.exists() else {}

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
    keys = [("model", name) for name in values["model"]] + [("data", "tokenizer"), ("data", "vocab_size")]
    open_keys = [(section, name) for section, name in keys if values[section].get(name, "") is None]
    if not open_keys:
        return values
    if not begun.exists():
        if values.get("init_from") is None:
            raise UserError(
                "config.init_from is missing; name the run directory of a pre-trained model, which gives architecture "
                "and tokenizer even where finetune.num_transfer_layers=-1 transfers no parameters."
            )
        begun = Run(values["init_from"])
    theirs = to_dict(begun.config())
    filled = {section: dict(values[section]) for section in ("model", "data")}
    for section, name in open_keys:
        filled[section][name] = theirs[section][name]
    return values | filled


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON so that the file is the old or the new one at every moment."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
