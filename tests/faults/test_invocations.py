"""Whatever a user types ends with its exit code and one line that says what is wrong, and leaves nothing behind."""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_support import SMALL, make_text
from faults import invocations
from faults.commands import ROOT, Commands, Ended
from faults.invocations import Invocation
from support import tiny_config

from gpt1_jax.data.corpus import prepare
from gpt1_jax.overrides import to_dict
from gpt1_jax.run import Run

_CONFIGS = {
    "syntax.py": "def get_config(",
    "raises.py": "def get_config():\n    raise ValueError('my own')\n",
    "imports.py": "import nosuchmodule\n",
    "empty.py": "",
    "none.py": "def get_config():\n    pass\n",
    "dict.py": "def get_config():\n    return {}\n",
    "endless.py": "def get_config():\n    return get_config()\n",
    "opens.py": "def get_config():\n    open('nosuch.json')\n",
    "short.py": "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'seed': 1})\n",
}
_CHANGED = """
from configs.pretrain import get_config as tiny
def get_config():
    config = tiny("tiny").unlock()
    {}
    return config
"""
_CHANGES = {
    "unknown.py": "config.nosuch = 1",
    "types.py": "config.train = config.train.to_dict() | {'batch_size': '8'}",
    "digits.py": "config.seed = 10**5000",
    "both.py": "config.train.num_steps, config.train.num_epochs = 5, 2.0",
}


def make_files(directory: Path) -> None:
    """What the invocations name."""
    (directory / "texts").mkdir()
    for number in range(21):
        (directory / "texts" / f"{number:02}.txt").write_text(make_text(number, 300))
    for part, rows in (("train", 12), ("validation", 8), ("test", 2)):
        lines = [f"{make_text(row, 5).strip()},{'ab'[row % 2]}\n" for row in range(rows)]
        (directory / f"{part}.csv").write_text("text,label\n" + "".join(lines))
    for name, text in _CONFIGS.items():
        (directory / name).write_text(text)
    for name, change in _CHANGES.items():
        (directory / name).write_text(_CHANGED.format(change))
    for name in ("directory.py", "directory.txt"):
        (directory / name).mkdir()
    for name in ("loop", "loop.py", "loop.txt"):
        (directory / name).symlink_to(name)
    for name in ("dangling", "dangling.py", "dangling.txt"):
        (directory / name).symlink_to("nothing")
    for name in ("fifo", "fifo.txt", "fifo.csv"):
        os.mkfifo(directory / name)
    for name in ("latin1.txt", "latin1.py", "latin1.csv"):
        (directory / name).write_bytes(b"text,label\n'caf\xe9',a\n")
    (directory / "empty.txt").touch()
    (directory / "empty.csv").touch()
    (directory / "text.txt").write_text("The river carries the old song.\n")
    (directory / "flags.txt").write_text("--config.seed=-1\n")
    (directory / "good.jsonl").write_text('{"text": "the river"}\n')
    (directory / "deep.jsonl").write_text("[" * 100_000)
    (directory / "digits.jsonl").write_text('{"text": ' + "9" * 5000 + "}")
    (directory / "surrogate.jsonl").write_text('{"text": "\\ud800"}\n')


class Place:
    """A directory of files, and a server that runs commands there."""

    def __init__(self, directory: Path, commands: Commands) -> None:
        self.directory, self.commands = directory, commands
        flags = SMALL | {"model.unroll": 1, "data.source": "text:texts/*.txt", "data.cache_dir": "cache"}
        del flags["train.num_steps"]  # which many invocations set
        tuning = {
            "init_from": "run",
            "data.source": "files:.",
            "data.cache_dir": "cache",
            "finetune.kind": "classification",
            "train.batch_size": 4,
        }
        self.words = {
            "ROOT": str(ROOT),
            "TINY": f"--config={ROOT}/configs/pretrain.py:tiny {_flags(flags)}",
            "CUSTOM": f"--config={ROOT}/configs/finetune.py:custom {_flags(tuning)}",
            "INIT": "--config.init_from=run",
            "RUN": "--workdir=run",
            "TUNED": "--workdir=tuned",
            "IN": "run",
        }
        self.values = {"NAME": "x" * 300, "LONG": "x" * 100_000, "DIGITS": "9" * 5000}
        make_files(directory)

    def run(self, line: str, stdin: bytes = b"", **environment: str) -> Ended:
        """Runs a command line of `invocations`."""
        module, *arguments = shlex.split(_fill(line, self.words))
        return self.commands.run(
            module,
            *(_fill(argument, self.values) for argument in arguments),
            directory=self.directory,
            stdin=stdin,
            environment=environment,
        )

    def names(self) -> set[str]:
        """What lies in the directory, but for caches."""
        return {path.name for path in self.directory.iterdir()} - {"cache"}

    def begin_run(self) -> None:
        """Makes the directory `run` as training does, with nothing in its checkpoint."""
        data = {
            "data.source": f"text:{self.directory}/texts/*.txt",
            "data.cache_dir": f"{self.directory}/cache",
        }
        config = tiny_config(**SMALL | data)
        tokenizer = prepare(config.data).tokenizer
        run = Run(str(self.directory / "run"))
        tokenizer.save(run.tokenizer)
        (self.directory / "run" / "checkpoints" / "1").mkdir(parents=True)
        (self.directory / "run" / "config.json").write_text(json.dumps(to_dict(config)))


def _flags(values: dict[str, object]) -> str:
    return " ".join(f"--config.{key}={value}" for key, value in values.items())


def _fill(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace("{" + word + "}", value)
    return text


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as commands:
        yield commands


@pytest.fixture(scope="module")
def place(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("invocations"), commands)
    place.begin_run()
    return place


@pytest.fixture(scope="module")
def trained(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("trained"), commands)
    for config, name in (("{TINY}", "run"), ("{CUSTOM}", "tuned")):
        ended = place.run(f"main {config} --config.train.num_steps=1 --workdir={name}")
        assert ended.code == 0, ended.stderr
    return place


def check(invocation: Invocation, place: Place) -> None:
    before = place.names()
    ended = place.run(invocation.line)
    assert ended.code == invocation.code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    if invocation.code == 0:
        assert "--" in ended.stdout
        return
    *before_it, line = ended.stderr.splitlines()
    # Nothing else is said, but that the run's empty checkpoint is passed over, or that no compiled program can be kept.
    others = [sentence for sentence in before_it if "checkpoint 1 is damaged" not in sentence]
    assert len(others) <= ("cache_dir" in invocation.line)
    assert line.startswith("error: ") and len(line) < 2500 and line.isprintable()
    assert all(word in line for word in invocation.words), line
    assert place.names() == before


@pytest.mark.parametrize("invocation", invocations.OFTEN, ids=lambda invocation: invocation.line[:80])
def test_it_ends_with_a_line_that_says_what_is_wrong(invocation: Invocation, place: Place) -> None:
    check(invocation, place)


@pytest.mark.slow
def test_so_do_all_their_likes(place: Place) -> None:
    for invocation in invocations.ALL:
        if invocation not in invocations.OFTEN:
            check(invocation, place)


@pytest.mark.slow
@pytest.mark.parametrize("invocation", invocations.USE, ids=lambda invocation: invocation.line[:80])
def test_so_it_does_with_a_model_in_memory(invocation: Invocation, trained: Place) -> None:
    check(invocation, trained)


def test_there_are_at_least_300_of_all_commands() -> None:
    assert len({invocation.line for invocation in invocations.OFTEN}) >= 300
    assert {invocation.line.split()[0] for invocation in invocations.OFTEN} == set(invocations.COMMANDS)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_an_output_of_another_encoding_stops_no_command(encoding: str, place: Place) -> None:
    """What goes to a file or a pipe is UTF-8, whatever the locale says, so that it comes back whole."""
    text = "Ein Gruß – 中文 \N{GRINNING FACE}\n".encode()
    ids = place.run("tokenize {RUN}", stdin=text, PYTHONIOENCODING=encoding)
    assert ids.code == 0, ids.stderr
    back = place.run("tokenize {RUN} --decode", stdin=ids.stdout.encode(), PYTHONIOENCODING=encoding)
    assert (back.code, back.stdout.encode()) == (0, text), back.stderr
    ended = place.run("tokenize --workdir=ÄÖ中", PYTHONIOENCODING=encoding)
    assert ended.code == 2 and "ÄÖ中" in ended.stderr


def test_a_run_directory_that_cannot_be_is_noticed_before_there_is_any_work(place: Place) -> None:
    for workdir in ("text.txt", "text.txt/x", "dangling"):
        ended = place.run(f"main {{TINY}} --config.data.cache_dir=untouched --workdir={workdir}")
        assert ended.code == 2 and workdir in ended.stderr, ended.stderr
        assert not list((place.directory / "untouched").rglob("manifest.json")), "the text was tokenized"


@pytest.mark.slow
def test_training_and_writing_go_on_where_the_output_cannot_say_it(trained: Place) -> None:
    ended = trained.run("main {TINY} --config.train.num_steps=2 --workdir=latin", PYTHONIOENCODING="latin-1")
    assert ended.code == 0 and "…" in ended.stdout, ended.stderr
    ended = trained.run("generate {RUN} --prompt=中 --max_new_tokens=2", PYTHONIOENCODING="latin-1")
    assert ended.code == 0 and ended.stdout.startswith("中"), ended.stderr


def test_the_one_named_on_the_command_line_says_how_long(place: Place) -> None:
    """Each run ends because its steps are too many to count, and so says how many it would take."""
    too_many = "{TINY} --config.train.num_epochs=999999999"
    assert "steps of this text" in place.run(f"main {too_many}").stderr  # the preset's num_steps gives way
    both = place.run(f"main {too_many} --config.train.num_steps=5")
    assert both.code == 2 and "both say how long" in both.stderr
    (place.directory / "long.txt").write_text("--config.train.num_epochs=999999999\n")
    assert "steps of this text" in place.run("main {TINY} --flagfile=long.txt").stderr
    apart = place.run("main {TINY} --config.train.num_epochs 999999999 --config.train.num_steps 0")
    assert "steps of this text" in apart.stderr
