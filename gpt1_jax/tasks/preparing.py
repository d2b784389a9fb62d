"""Prepares TFDS sets of labeled tasks without TensorFlow, which TFDS itself would need."""

import contextlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from gpt1_jax.errors import UserError

# TFDS finds these sets only after their module is imported.
_MODULES = {
    "glue": "tensorflow_datasets.text.glue",
    "definite_pronoun_resolution": "tensorflow_datasets.text.definite_pronoun_resolution",
}


def prepare_set(name: str, archives: tuple[str, ...], directory: Any) -> Any:
    """Downloads and prepares a set, and returns its builder.

    Args:
        name: the name of the set.
        archives: the files that TFDS downloads for it, or finds in `downloads/manual` of the directory.
        directory: the etils path of the prepared sets.

    Raises:
        UserError: a file cannot be downloaded, is not the one that TFDS expects, or cannot be unpacked.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    if module := _MODULES.get(name.split("/")[0]):
        import_module(module)
    downloads = directory / "downloads"
    try:
        (downloads / "manual").mkdir(parents=True, exist_ok=True)
        builder: Any = tfds.builder(name, data_dir=directory)
        with tempfile.TemporaryDirectory(dir=downloads) as folder, _adapt_tfds(builder, folder):
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                file_format="array_record",
            )
    except (OSError, AssertionError, zipfile.BadZipFile, DownloadError, NonMatchingChecksumError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.source='tfds': {name} is not prepared in {directory}, and preparing it failed "
            f"({type(error).__name__}: {reason:.200}); put {' and '.join(archives)} into {downloads / 'manual'}, or "
            "name the directory of the set's official files with data.source=files:DIR."
        ) from error
    return builder


@contextlib.contextmanager
def _adapt_tfds(builder: Any, folder: str) -> Iterator[None]:
    """Replaces the few things for which TFDS needs TensorFlow, and those that would keep a user waiting."""
    from tensorflow_datasets.core.download import downloader
    from tensorflow_datasets.core.features import feature

    make_manager = builder._make_download_manager

    def make_unpacking_manager(**keywords: Any) -> Any:
        manager = make_manager(**keywords)
        manager.download_and_extract = lambda url: _unpack(manager.download(url), folder)
        return manager

    info: Any = feature.TensorInfo
    with (
        _replaced(builder, "_make_download_manager", make_unpacking_manager),
        # This type is for nested lists, which TFDS turns into NumPy arrays in any case.
        _replaced(info, "tf_dtype", info.np_dtype),
        # TFDS's own ten retries take minutes without a network.
        _replaced(downloader, "MAX_RETRIES", 3),
        # TFDS prints its progress to standard output.
        contextlib.redirect_stdout(sys.stderr),
    ):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _unpack(archive: Any, folder: str) -> Any:
    from etils import epath

    keywords: dict[str, Any] = {} if archive.suffix == ".zip" else {"filter": "data"}
    shutil.unpack_archive(archive, folder, **keywords)
    return epath.Path(folder)
