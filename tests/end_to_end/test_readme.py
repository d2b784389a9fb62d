"""The README's longer commands, run as they stand there, on real books and for a few steps."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from command_support import ROOT, read_metrics

BOOKS = ROOT.parent / "shared" / "data" / "books.tar.xz"
MEGABYTES = 18

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BOOKS.exists(), reason=f"the shared books are not at {BOOKS}"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with configs/ and some books/ in it."""
    directory = tmp_path_factory.mktemp("readme")
    (directory / "configs").symlink_to(ROOT / "configs")
    (directory / "books").mkdir()
    size = 0
    with tarfile.open(BOOKS) as archive:
        for member in archive:
            if size > MEGABYTES * 1_000_000:
                break
            file = archive.extractfile(member) if member.name.endswith(".txt") else None
            if file is not None:
                data = file.read()
                (directory / "books" / Path(member.name).name).write_bytes(data)
                size += len(data)
    return directory


def command_with(workdir: str) -> list[str]:
    """The README's command for a run directory, as a shell would split it."""
    lines = re.findall(
        r"^```\n(python -m gpt1_jax\.main .*)\n```$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    line = next(line for line in lines if f"--workdir={workdir}" in line)
    return [sys.executable, *line.replace("'", "").split()[1:]]


@pytest.mark.parametrize(
    ("workdir", "parameters"), [("runs/books", "4,240,384"), ("runs/paper", "116,534,784")]
)
def test_a_command_of_the_readme_takes_steps(place: Path, workdir: str, parameters: str) -> None:
    few = [
        "--config.train.num_steps=3",
        "--config.train.eval_batches=2",
        f"--config.data.cache_dir={place}/cache",
    ]
    done = subprocess.run(
        command_with(workdir) + few, cwd=place, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{parameters} parameters" in done.stdout and "peak memory" in done.stdout
    assert [entry["step"] for entry in read_metrics(place / workdir)] == [1, 3, 3]
