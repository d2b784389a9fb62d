"""One set of small runs for all tests of commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_support import Runner
from faults.commands import Commands


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with Commands() as commands:
        yield Runner(tmp_path_factory.mktemp("pretraining"), commands)


@pytest.fixture(scope="session")
def undisturbed(runner: Runner) -> Path:
    workdir = runner.directory / "undisturbed"
    runner.run(workdir)
    return workdir
