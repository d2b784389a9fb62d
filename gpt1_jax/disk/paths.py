"""Paths as users write them."""

from pathlib import Path

from etils import epath

from gpt1_jax.errors import UserError


def expand(path: epath.PathLike, name: str) -> epath.Path:
    """A path without the `~` of its beginning.

    Args:
        path: of this machine, or of a bucket, gs://…
        name: the field or flag that it is of, for the error.

    Raises:
        UserError: nobody knows where that home is; a directory named `~` would else be made.
    """
    if not str(path).startswith("~"):  # nor "./~", which a Path would take for a home as well
        return epath.Path(path)
    expanded = epath.Path(path).expanduser()
    if str(expanded).startswith("~"):
        user = str(expanded).partition("/")[0]
        mend = "set the variable HOME" if user == "~" else "correct the user's name"
        raise UserError(
            f"{name}={path} begins with {user}, a home that is not known; {mend}, or write the whole path."
        )
    return expanded


def expand_local(path: epath.PathLike, name: str) -> Path:
    """`expand` of a path of this machine."""
    return Path(expand(path, name))
