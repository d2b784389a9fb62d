"""The folder that GLUE's server takes: a file of predictions for each test set, by its official name, zipped."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.variants import is_finished, read_results
from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.tasks.catalog import find_task

# The official name of each file: the task, and the file that a run writes.
FILES: Mapping[str, tuple[str, str]] = {
    "CoLA.tsv": ("cola", "test.tsv"),
    "SST-2.tsv": ("sst2", "test.tsv"),
    "MRPC.tsv": ("mrpc", "test.tsv"),
    "STS-B.tsv": ("stsb", "test.tsv"),
    "QQP.tsv": ("qqp", "test.tsv"),
    "MNLI-m.tsv": ("mnli", "test_matched.tsv"),
    "MNLI-mm.tsv": ("mnli", "test_mismatched.tsv"),
    "QNLI.tsv": ("qnli", "test.tsv"),
    "RTE.tsv": ("rte", "test.tsv"),
    "WNLI.tsv": ("wnli", "test.tsv"),
    "AX.tsv": ("ax", "test.tsv"),
}
# Zip files cannot be older, and with one date the same predictions make the same file.
_DATE = (1980, 1, 1, 0, 0, 0)


def write_submission(output: Path) -> list[str]:
    """Writes OUTPUT/submission/ and OUTPUT/submission.zip, of the seed of each task that validates best.

    The server wants all eleven files.

    Args:
        output: the directory of the fine-tunings, OUTPUT/TASK/full/SEED.

    Returns:
        The official names of the files that are lacking.
    """
    folder = output / "submission"
    folder.mkdir(parents=True, exist_ok=True)
    packed, lacking = io.BytesIO(), []
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (task, file) in FILES.items():
            best = best_run(output / ("mnli" if task == "ax" else task) / "full")
            source = None if best is None else output / task / "full" / best.name / "predictions" / file
            if source is None or not source.exists():
                (folder / name).unlink(missing_ok=True)
                lacking.append(name)
                continue
            text = source.read_text()
            write_whole(folder / name, text)
            archive.writestr(zipfile.ZipInfo(name, _DATE), text, zipfile.ZIP_DEFLATED)
    write_whole(output / "submission.zip", packed.getvalue())
    return lacking


def best_run(place: Path) -> Path | None:
    """Returns the finished fine-tuning PLACE/SEED with the best score on validation, or None if there is none."""
    runs = sorted(path.parent for path in place.glob("*/results.json") if is_finished(path.parent))
    metric = find_task(place.parent.name).metrics[0]
    return max(runs, key=lambda run: read_results(run)["predictions"][metric], default=None)
