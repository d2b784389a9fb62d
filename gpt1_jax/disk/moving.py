"""Moves directories, also where there are none, as in a bucket."""

from etils import epath


def move(source: epath.Path, target: epath.Path) -> None:
    """Moves a directory to where nothing is; in a bucket, file by file, since only files have names there."""
    if "://" not in str(source):
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
        return
    copy(source, target)
    source.rmtree()


def copy(source: epath.Path, target: epath.Path) -> None:
    """Copies a directory with all that is in it."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_dir():
            copy(path, target / path.name)
        else:
            path.copy(target / path.name)
