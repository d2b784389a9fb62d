"""Moving directories."""

from pathlib import Path

from etils import epath

from gpt1_jax.disk.moving import copy, move

FILES = ("a", "state/b", "state/c/d")


def make(directory: Path) -> epath.Path:
    for name in FILES:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    return epath.Path(directory)


def contents(directory: Path) -> dict[str, str]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_text() for path in files}


def test_a_directory_is_moved_whole(tmp_path: Path) -> None:
    move(make(tmp_path / "5"), epath.Path(tmp_path / "diverged/5"))
    assert contents(tmp_path / "diverged/5") == {name: name for name in FILES}
    assert not (tmp_path / "5").exists()


def test_a_bucket_has_it_copied_file_by_file(tmp_path: Path) -> None:
    copy(make(tmp_path / "5"), epath.Path(tmp_path / "damaged/5"))
    assert contents(tmp_path / "damaged/5") == {name: name for name in FILES}
