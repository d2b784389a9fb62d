"""`tfds`: prepared sets are read, others are prepared, from archives of the true inner layout, without TensorFlow."""

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import download_manager

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.task import Example, TaskSplit
from gpt1_jax.tasks.tfds_sets import SETS, read_tfds


def read(directory: Path, task: str, split: TaskSplit = "train") -> list[Example]:
    return read_tfds(find_task(task), str(directory), split)


@pytest.fixture
def manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns where archives are put; any content passes for the published one, and the network is out of reach."""

    def refuse(*_: object, **__: object) -> None:
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests.Session, "get", refuse)
    monkeypatch.setattr(
        download_manager.DownloadManager, "_register_or_validate_checksums", lambda *_, **__: None
    )
    folder = tmp_path / "downloads" / "manual"
    folder.mkdir(parents=True)
    return folder


def make_zip(path: Path, **files: str) -> None:
    """A zip of files, named by their paths with "__" for "/" and without the dot: RTE__train_tsv."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(".".join(name.replace("__", "/").rsplit("_", 1)), text)


# ── Preparing ────────────────────────────────────────────────────────────────────────────────────────────────


def test_glue_is_prepared_from_its_archive_and_read_in_its_order(tmp_path: Path, manual: Path) -> None:
    sentences = [f'{n}\t{n % 2}\t*\t"Sentence" {n} é.' for n in range(30)]
    make_zip(
        manual / "CoLA.zip",
        CoLA__train_tsv="\n".join(sentences),
        CoLA__dev_tsv=sentences[5],
        CoLA__test_tsv="index\tsentence\n0\tUnknown.\n1\tToo.",
    )
    expected = [Example((f'"Sentence" {n} é.',), n % 2) for n in range(30)]
    assert read(tmp_path, "cola") == expected
    (manual / "CoLA.zip").unlink()  # from now on it is prepared
    assert read(tmp_path, "cola") == expected
    assert read(tmp_path, "cola", "validation") == expected[5:6]
    assert read(tmp_path, "cola", "test") == [Example(("Unknown.",), None), Example(("Too.",), None)]
    left = {path.name for path in (tmp_path / "downloads").iterdir()}
    assert left <= {"manual", "extracted"}  # nothing unpacked stays


def test_labels_have_the_order_of_the_official_names(tmp_path: Path, manual: Path) -> None:
    table = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n1\tc\td\tentailment"
    make_zip(manual / "RTE.zip", RTE__train_tsv=table, RTE__dev_tsv=table, RTE__test_tsv=table)
    assert read(tmp_path, "rte") == [Example(("a", "b"), 1), Example(("c", "d"), 0)]


def test_glues_other_pairs_are_prepared_too(tmp_path: Path, manual: Path) -> None:
    table = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n1\tc\td\t0"
    make_zip(manual / "WNLI.zip", WNLI__train_tsv=table, WNLI__dev_tsv=table, WNLI__test_tsv=table)
    assert read(tmp_path, "wnli") == [Example(("a", "b"), 1), Example(("c", "d"), 0)]
    (manual / "tsvsWithoutLabels_AX.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
    assert read(tmp_path, "ax", "test") == [Example(("a", "b"), None)]
    assert read(tmp_path, "ax") == read(tmp_path, "ax", "validation") == []


def test_scores_are_kept(tmp_path: Path, manual: Path) -> None:
    table = "index\tsentence1\tsentence2\tscore\n0\ta\tb\t3.75\n1\tc\td\t0.000"
    test = "index\tsentence1\tsentence2\n0\ta\tb"
    make_zip(
        manual / "STS-B.zip", **{"STS-B__train_tsv": table, "STS-B__dev_tsv": table, "STS-B__test_tsv": test}
    )
    assert read(tmp_path, "stsb") == [Example(("a", "b"), 3.75), Example(("c", "d"), 0.0)]
    assert read(tmp_path, "stsb", "test") == [Example(("a", "b"), None)]


def test_mnli_has_its_groups(tmp_path: Path, manual: Path) -> None:
    def table(label: str) -> str:
        return f"index\tsentence1\tsentence2\tgold_label\n0\tp\th\t{label}\n"

    make_zip(
        manual / "MNLI.zip",
        MNLI__train_tsv=table("neutral"),
        MNLI__dev_matched_tsv=table("entailment"),
        MNLI__dev_mismatched_tsv=table("contradiction"),
        MNLI__test_matched_tsv="index\tsentence1\tsentence2\n0\tp\th\n",
        MNLI__test_mismatched_tsv="index\tsentence1\tsentence2\n0\tp\th\n",
    )
    assert read(tmp_path, "mnli") == [Example(("p", "h"), 1)]
    validation = [Example(("p", "h"), 0, "matched"), Example(("p", "h"), 2, "mismatched")]
    assert read(tmp_path, "mnli", "validation") == validation
    assert read(tmp_path, "mnli", "test") == [e._replace(label=None) for e in validation]


def test_mrpc_is_prepared_from_its_three_files(tmp_path: Path, manual: Path) -> None:
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    rows = "1\t7\t8\ta\tb\n0\t9\t10\tc\td\n"
    (manual / "msr_paraphrase_train.txt").write_text(f"\ufeff{header}{rows}", encoding="utf-8")
    (manual / "msr_paraphrase_test.txt").write_text(f"{header}{rows}")
    (manual / "data_mrpc_dev_ids.tsv").write_text("9\t10\n")
    assert read(tmp_path, "mrpc") == [Example(("a", "b"), 1)]
    assert read(tmp_path, "mrpc", "validation") == [Example(("c", "d"), 0)]


def test_what_snlis_annotators_did_not_agree_on_is_predicted_but_not_learned(
    tmp_path: Path, manual: Path
) -> None:
    table = "gold_label\tsentence1\tsentence2\n-\ta\tb\ncontradiction\tc\td\n"
    files = {f"snli_1.0__snli_1.0_{split}_txt": table for split in ("train", "dev", "test")}
    make_zip(manual / "snli_1.0.zip", **files)
    for split in ("train", "validation"):
        assert read(tmp_path, "snli", split) == [Example(("c", "d"), 2)]
    test = sorted(read(tmp_path, "snli", "test"))  # TFDS shuffles
    assert test == [Example(("a", "b"), None), Example(("c", "d"), 2)]


def test_scitail_is_prepared_from_its_archive(tmp_path: Path, manual: Path) -> None:
    files = {
        f"SciTailV1.1__tsv_format__scitail_1.0_{s}_tsv": f"p\th {s}\tneutral\n"
        for s in ("train", "dev", "test")
    }
    make_zip(manual / "SciTailV1.1.zip", **files)
    assert read(tmp_path, "scitail", "validation") == [Example(("p", "h dev"), 1)]


def test_race_is_prepared_though_its_lists_are_nested(tmp_path: Path, manual: Path) -> None:
    with tarfile.open(manual / "RACE.tar.gz", "w:gz") as archive:
        for folder in (
            f"{split}/{group}" for split in ("train", "dev", "test") for group in ("middle", "high")
        ):
            passage = {
                "id": "1",
                "article": f"Of {folder}.",
                "questions": ["Who?", "Why?"],
                "options": [["a", "b", "c", "d"], ["e", "f", "g", "ü"]],
                "answers": ["D", "A"],
            }
            text = json.dumps(passage).encode()
            member = tarfile.TarInfo(f"RACE/{folder}/1.txt")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    assert read(tmp_path, "race", "validation") == [
        Example((f"Of dev/{group}.", *texts), label, group)
        for group in ("middle", "high")
        for texts, label in ((("Who?", "a", "b", "c", "d"), 3), (("Why?", "e", "f", "g", "ü"), 0))
    ]
    assert [example.group for example in read(tmp_path, "race_high")] == ["", ""]


def test_story_cloze_is_prepared_from_the_files_that_are_given_on_request(
    tmp_path: Path, manual: Path
) -> None:
    columns = [f"InputSentence{n}" for n in (1, 2, 3, 4)]
    columns += ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"]
    for part, answer in (("val", "2"), ("test", "1")):
        with (manual / f"cloze_test_{part}__spring2016.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["InputStoryid", *columns, "AnswerRightEnding"])
            table.writerow(["id", "A.", "B, too.", "C.", "D.", "x", "y", answer])
    assert read(tmp_path, "story_cloze") == [Example(("A. B, too. C. D.", "", "x", "y"), 1)]
    assert read(tmp_path, "story_cloze", "test")[0].label == 0
    assert read(tmp_path, "story_cloze", "validation") == []


def test_dprd_is_prepared_from_its_files(tmp_path: Path, manual: Path) -> None:
    block = "The bee saw it.\nit\nThe bee,the sun\nthe sun\n\n"
    (manual / "train.c.txt").write_text(block)
    (manual / "test.c.txt").write_text(block.replace("\nthe sun\n", "\nThe bee\n"))
    assert read(tmp_path, "dprd") == [Example(("The bee saw it.", "it", "The bee", "the sun"), 1)]
    assert [e.label for e in read(tmp_path, "dprd", "validation")] == [0]
    assert [e.label for e in read(tmp_path, "dprd", "test")] == [0]


# ── What goes wrong ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("task", SETS)
def test_without_archives_and_network_the_way_out_is_told(tmp_path: Path, manual: Path, task: str) -> None:
    files = " and ".join(SETS[task].archives)
    with pytest.raises(UserError, match=f"put {files} into {manual}, or .*data.source=files:DIR"):
        read(tmp_path, task, next(iter(SETS[task].parts)))


def test_an_archive_that_is_not_the_published_one_is_told(tmp_path: Path) -> None:
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    make_zip(manual / "RTE.zip", RTE__train_tsv="index\tsentence1\tsentence2\tlabel\n")
    with pytest.raises(UserError, match=r"NonMatchingChecksumError.*manual/RTE.zip, has wrong checksum"):
        read(tmp_path, "rte")


def test_a_broken_archive_is_told(tmp_path: Path, manual: Path) -> None:
    (manual / "RTE.zip").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match=r"glue/rte is not prepared .* preparing it failed"):
        read(tmp_path, "rte")


def test_tfds_is_left_as_it_was(tmp_path: Path, manual: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorflow_datasets.core.download import downloader
    from tensorflow_datasets.core.features import feature

    with pytest.raises(UserError):
        read(tmp_path, "snli")
    assert downloader.MAX_RETRIES == 10
    assert isinstance(vars(feature.TensorInfo)["tf_dtype"], property)
    assert capsys.readouterr().out == ""  # a command's own output is not mixed with TFDS's


# ── Sets that were prepared elsewhere ────────────────────────────────────────────────────────────────────────


def prepare_snli(directory: Path, rows: Callable[[str], list[tuple[str, str, int | str]]]) -> None:
    """Prepares `snli` by TFDS itself, under its own name and version."""
    label = tfds.features.ClassLabel(names=["entailment", "neutral", "contradiction"])
    text = tfds.features.Text()

    class Snli(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.1.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = tfds.features.FeaturesDict({"premise": text, "hypothesis": text, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: object) -> dict[str, object]:
            return {split: self._generate_examples(split) for split in ("train", "validation")}

        def _generate_examples(self, split: str):
            for key, row in enumerate(rows(split)):
                yield key, dict(zip(("premise", "hypothesis", "label"), row, strict=True))

    Snli(data_dir=str(directory), file_format="array_record").download_and_prepare()


def test_a_set_prepared_elsewhere_is_read(tmp_path: Path) -> None:
    prepare_snli(tmp_path, lambda split: [(split, "h", "neutral"), ("p", "h", -1)])
    assert read(tmp_path, "snli", "validation") == [Example(("validation", "h"), 1)]
    with pytest.raises(UserError, match=r"snli/1.1.0 \(test\) in .* has no such split"):
        read(tmp_path, "snli", "test")
    info = tmp_path / "snli" / "1.1.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="not TFDS's format array_record"):
        read(tmp_path, "snli")


def test_the_labels_of_tfds_are_numbered_as_the_tasks_are() -> None:
    import tensorflow_datasets.text.glue as glue

    configs = {config.name: config.label_classes for config in glue.Glue.BUILDER_CONFIGS}
    for name in ("mnli", "qnli", "rte"):
        assert tuple(configs[name]) == find_task(name).labels
    for name in ("cola", "sst2", "mrpc", "qqp"):  # their files say 0 and 1
        assert len(configs[name]) == 2 and configs[name][0].startswith(("un", "neg", "not_"))
    for name, task in (("snli", "snli"), ("sci_tail", "scitail")):
        assert tuple(tfds.builder(name).info.features["label"].names) == find_task(task).labels
