"""Throws damaged files at every reader of users' files: python -m tests.faults.reader_fuzz [--seconds=600] [--seed=0].

A reader ends with rows or with a UserError of one line, soon; nothing else is survived here. Where another program can
count the rows of a damaged file, ours are as many.
"""

import argparse
import contextlib
import gzip
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from configs.finetune import paper
from gpt1_jax.config import DataConfig
from gpt1_jax.data.corpus import load, prepare
from gpt1_jax.data.sources import open_source
from gpt1_jax.data.tokenizers.opening import load_tokenizer, open_tokenizer
from gpt1_jax.data.tokenizers.sentencepiece import train_sentencepiece
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.custom import read_custom
from gpt1_jax.tasks.official_files import read_official_files
from gpt1_jax.tasks.rows import read_csv, read_json_file, read_jsonl, read_tsv
from gpt1_jax.usage.prediction_files import read_records

SLOWEST = 20.0  # seconds of a reader, on a machine that is busy
LONGEST = 2000  # characters of a message

TEXTS = ["Good, he said", 'a "fine" day', "", " ", "Zwölf Büchər\u2028und mehr", "one; two | three", "last"]
_BYTES = [
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\n",
    b"\r\n",
    b"\t",
    b'"',
    b'""',
    b"\\ud800",
    b"{",
    b"[",
    b"null",
    b"\x1f\x8b",
]
_BYTES += [b"1e999", b"NaN", b",", b";", b"\xe2\x80\xa8", b"-1", b"9" * 5000, b"[" * 5000, b"A" * 200_000]


class Reader(NamedTuple):
    """What is read, and how.

    Attributes:
        path: the file that is damaged, below a directory of its own.
        read: the directory → what was read.
        expect: the file → how many rows an independent program finds; None where it finds no answer.
    """

    path: str
    read: Callable[[Path], Any]
    expect: Callable[[bytes], int | None] = lambda content: None


def mutate(content: bytes, chance: random.Random) -> bytes:
    """The content with one to four kinds of damage."""
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        content = _damage(content, chance)
    return content


def _damage(content: bytes, chance: random.Random) -> bytes:
    start, stop = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    before, piece, after = content[:start], content[start:stop], content[stop:]
    match chance.randrange(12):
        case 0:
            return before
        case 1:
            return before + after
        case 2:
            return before + piece * chance.choice([2, 3, 50]) + after
        case 3:
            return before + chance.choice(_BYTES) + piece + after
        case 4:
            return before + chance.choice(_BYTES) + after
        case 5:
            return before + chance.randbytes(len(piece)) + after
        case 6:
            return content.replace(
                *chance.choice([(b"\n", b"\r\n"), (b"\n", b"\r"), (b",", b";"), (b'"', b"'")])
            )
        case 7:
            return content.decode("utf-8", "replace").encode(chance.choice(["utf-16", "utf-8-sig", "utf-32"]))
    return _flip(content, chance)


def _flip(content: bytes, chance: random.Random) -> bytes:
    if not content:
        return b"\x01"
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def attack(readers: dict[str, Reader], directory: Path, chance: random.Random) -> str:
    """Damages the file of one reader, reads, and puts the file back; returns "rows" or "refused".

    Raises:
        AssertionError: it ended in another way than it may.
    """
    name = chance.choice(sorted(readers))
    place, reader = directory / name.replace(" ", "_"), readers[name]
    path = place / reader.path
    whole = path.read_bytes()
    damaged = mutate(whole, chance)
    path.write_bytes(damaged)
    started = time.monotonic()
    try:
        rows = reader.read(place)
    except UserError as error:
        message = str(error)
        assert "\n" not in message and 0 < len(message) < LONGEST, (name, damaged[:500], message)
        return "refused"
    except BaseException as error:
        raise AssertionError(
            f"{name} ended with {type(error).__name__}: {error} of {damaged[:2000]!r}"
        ) from error
    finally:
        path.write_bytes(whole)
    assert time.monotonic() - started < SLOWEST, (name, damaged[:500])
    expected = reader.expect(damaged)
    assert expected is None or len(rows) == expected, (name, damaged[:2000], len(rows), expected)
    return "rows"


def count_lines(content: bytes) -> int | None:
    """The JSON lines of a file that is read whole."""
    if content.startswith(b"\x1f\x8b"):
        return None
    return sum(bool(line.strip()) for line in content.decode("utf-8-sig").split("\n"))


def count_texts(content: bytes) -> int | None:
    """The JSON lines whose text is not empty."""
    if content.startswith(b"\x1f\x8b"):
        return None
    lines = [line for line in content.decode("utf-8-sig").split("\n") if line.strip()]
    return sum(json.loads(line)["text"] != "" for line in lines)


def make_readers(directory: Path) -> dict[str, Reader]:
    """Writes a sound file for each reader into a directory of its name."""
    records = "".join(json.dumps({"text": text or "empty", "label": "a"}) + "\n" for text in TEXTS)
    table = "text\tlabel\n" + "".join(f"{text or 'none'}\t1\n" for text in TEXTS)
    quoted = "text,label\n" + "".join('"{}",1\n'.format(text.replace('"', '""')) for text in TEXTS)
    passage = {
        "article": "a",
        "questions": ["q", "r"],
        "options": [["1", "2", "3", "4"]] * 2,
        "answers": ["A", "B"],
    }
    pair = {"gold_label": "neutral", "sentence1": "one", "sentence2": "two"}
    schema = "He came.\nHe\nAnn,Bob\nBob\n\n" * 3
    columns = ["InputStoryid", "InputSentence1", "InputSentence2", "InputSentence3", "InputSentence4"]
    cloze = ",".join([*columns, "RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"])
    model = train_sentencepiece(iter(["a few words to train on"] * 50), 280)

    def files(task: str) -> Callable[[Path], Any]:
        return lambda place: read_official_files(find_task(task), place, "train")

    def custom(name: str) -> Callable[[Path], Any]:
        settings = paper("custom").finetune
        assert settings is not None
        return lambda place: read_custom(replace(settings, kind="classification"), place / name, split_seed=0)

    def tokenizer(spec: str) -> Callable[[Path], Any]:
        return lambda place: open_tokenizer(spec.format(place=place))

    def texts(place: Path) -> list[str]:
        source = open_source(f"text:{place}/*")
        return [text for part in range(source.parts("train")) for text in source.read("train", part)]

    readers: dict[str, tuple[Reader, bytes]] = {
        "tsv": (Reader("x.tsv", lambda place: list(read_tsv(place / "x.tsv"))), table.encode()),
        "csv": (Reader("x.csv", lambda place: list(read_csv(place / "x.csv"))), quoted.encode()),
        "jsonl": (Reader("x.jsonl", lambda place: list(read_jsonl(place / "x.jsonl")), count_lines), records.encode()),
        "json": (Reader("x.json", lambda place: read_json_file(place / "x.json")), json.dumps(passage).encode()),
        "race": (Reader("train/middle/1.txt", files("race_middle")), json.dumps(passage).encode()),
        "snli": (Reader("snli_1.0_train.jsonl", files("snli")), (json.dumps(pair) + "\n").encode() * 5),
        "numbered": (Reader("ppft_subset_train.json", files("qnli")), json.dumps(
            {str(i): {"text_a": "a", "text_b": "b", "label": "entailment"} for i in range(3)}).encode()),
        "qqp": (Reader("train.tsv", files("qqp")), b"id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
                + b"1\t2\t3\twhat?\twho?\t0\n" * 5),
        "story cloze": (Reader("cloze_test_val__spring2016.csv", files("story_cloze")),
                        (cloze + "\n" + "i,a,b,c,d,e,f,1\n" * 5).encode()),
        "schemas": (Reader("train.c.txt", files("dprd")), schema.encode()),
        "custom table": (Reader("mine.csv", custom("mine.csv")), b"text,label\n" + b"good,a\nbad,b\n" * 12),
        "custom lines": (Reader("mine.jsonl", custom("mine.jsonl")), b'{"text": "good", "label": 1}\n' * 12
                         + b'{"text": "bad", "label": 2}\n' * 12),
        "predict": (Reader("in.jsonl", lambda place: [*read_records(place / "in.jsonl")], count_lines),
                    records.encode()),
        "text": (Reader("a.txt", texts), "".join(TEXTS).encode()),
        "lines of text": (Reader("a.jsonl", texts, count_texts), records.encode()),
        "packed text": (Reader("a.jsonl.gz", texts), gzip.compress(records.encode(), mtime=0)),
        "sentencepiece": (Reader("x.model", tokenizer("sentencepiece:{place}/x.model")), model.model),
        "saved tokenizer": (Reader("tokenizer.json", load_tokenizer), b""),
        "vocabulary": (Reader("encoder_bpe_40000.json", tokenizer("openai:{place}")),
                       json.dumps({"<unk>": 0, "a": 1, "b</w>": 2, "ab</w>": 3}).encode()),
        "merges": (Reader("vocab_40000.bpe", tokenizer("openai:{place}")), b"#version: 0.2\na b</w>\n"),
        "manifest": (Reader("manifest.json", load), b""),
    }  # fmt: skip
    for name, (reader, content) in readers.items():
        path = directory / name.replace(" ", "_") / reader.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    model.save(directory / "saved_tokenizer")
    for name, other in (("vocabulary", "merges"), ("merges", "vocabulary")):
        (directory / name / readers[other][0].path).write_bytes(readers[other][1])
    make_corpus(directory / "manifest")
    return {name: reader for name, (reader, _) in readers.items()}


def make_corpus(place: Path) -> None:
    """A whole corpus in a directory."""
    (place / "texts").mkdir()
    for number in range(21):
        (place / "texts" / f"{number:02}.txt").write_text("a few words to train on\n" * 20)
    made = prepare(
        DataConfig(f"text:{place}/texts/*", "sentencepiece", 280, str(place / "cache"), None),
        progress=lambda line: None,
    )
    for path in made.directory.iterdir():
        path.rename(place / path.name)


def run(chance: random.Random, goes_on: Callable[[], bool]) -> Counter[str]:
    """Attacks while it goes on; returns how often readers ended with rows and with a refusal."""
    ended: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(None):
        readers = make_readers(Path(name))
        while goes_on():
            ended[attack(readers, Path(name), chance)] += 1
    return ended


def seconds(count: float) -> Callable[[], bool]:
    """Returns a function that says whether `count` seconds are not over yet."""
    end = time.monotonic() + count
    return lambda: time.monotonic() < end


def times(count: int) -> Callable[[], bool]:
    """Returns a function that says "go on" `count` times."""
    left: Iterator[int] = iter(range(count))
    return lambda: next(left, None) is not None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(dict(run(random.Random(options.seed), seconds(options.seconds))))
