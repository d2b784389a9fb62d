"""One set of small runs for all tests of commands."""

from pathlib import Path

import pytest
from command_support import Runner


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("pretraining"))


@pytest.fixture(scope="session")
def undisturbed(runner: Runner) -> Path:
    workdir = runner.directory / "undisturbed"
    runner.run(workdir)
    return workdir
