"""Corpora made by many: whoever does the work and whatever is lost on the way, the bytes are the same."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from data_support import data_config
from large_data import write_books

from gpt1_jax.data import shards, text_files, workers
from gpt1_jax.data.building import tokenize
from gpt1_jax.data.corpus import load
from gpt1_jax.data.progress import Progress
from gpt1_jax.data.shards import Job, Part, Result
from gpt1_jax.data.sources import open_source, read_documents
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.data.tokenizers.sentencepiece import train_sentencepiece
from gpt1_jax.data.workers import Workers, beam_workers, local_workers
from gpt1_jax.errors import Fault, UserError

MEGABYTES = 100
HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(not HAS_BEAM, reason="Apache Beam is missing; pip install 'gpt1_jax[beam]'")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_sentencepiece(
        iter(["Document 12345 67890 has a few lines,\n  like the others ü\n"] * 9), 290
    )


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns a source of fifty documents in files of both kinds, in eight parts."""
    (tmp_path / "text").mkdir()
    documents = [f"Document {i} has a few lines,\n  like the others ü\n" * (i % 7 + 1) for i in range(50)]
    lines = [json.dumps({"text": document}) for document in documents[:40]]
    (tmp_path / "text" / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for i, document in enumerate(documents[40:]):
        (tmp_path / "text" / f"b{i}.txt").write_text(document, encoding="utf-8")
    monkeypatch.setattr(text_files, "PART_BYTES", 1000)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    shards._open.cache_clear()
    spec = f"text:{tmp_path}/text/*"
    assert open_source(spec).parts("train") > 7
    return spec


def make(text: str, tokenizer: Tokenizer, output: Path, workers: Workers) -> Path:
    with Progress(lambda line: None) as progress:
        return Path(tokenize(data_config(text, output, split_seed=0), tokenizer, progress, workers))


def bytes_of(corpus: Path) -> dict[str, bytes]:
    return {str(path.relative_to(corpus)): path.read_bytes() for path in corpus.rglob("*") if path.is_file()}


def backwards(
    job: Job,
    parts: Sequence[Part],
    tokenizer: Tokenizer | None,
    progress: Callable[[Result], None],
    finished: Callable[[Part], None],
) -> None:
    """Does the last part first, and each twice."""
    for part in [*reversed(parts), *parts]:
        shards.process(job, part)


@pytest.fixture
def expected(text: str, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The corpus that this process makes alone."""
    with monkeypatch.context() as patch:
        patch.setattr(workers, "FEW", 1000)
        return make(text, tokenizer, tmp_path / "alone", local_workers)


def test_the_parts_together_are_the_text(text: str, expected: Path, tokenizer: Tokenizer) -> None:
    corpus = load(expected)
    for split in (corpus.train, corpus.validation):
        name = "train" if split is corpus.train else "validation"
        joined = "".join(read_documents(open_source(text), name))
        assert tokenizer.decode(split.read(0, len(split)).tolist()) == joined
    assert len(corpus.train.shards) > 7


def test_order_and_repetition_make_no_difference(
    text: str, expected: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    assert bytes_of(make(text, tokenizer, tmp_path / "again", backwards)) == bytes_of(expected)


def test_a_task_that_fails_leaves_the_others_done(
    text: str, expected: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Part] = []
    write = shards._write_shard

    def fail_once(job: Job, part: Part, *rest: Any) -> Result:
        written.append(part)
        if len(written) == 4:
            raise KeyboardInterrupt
        return write(job, part, *rest)

    monkeypatch.setattr(workers, "FEW", 1000)
    monkeypatch.setattr(shards, "_write_shard", fail_once)
    with pytest.raises(KeyboardInterrupt):
        make(text, tokenizer, tmp_path / "again", local_workers)
    assert [path.name[0] for path in (tmp_path / "again").iterdir()] == ["."]
    done = written[:3]
    assert bytes_of(make(text, tokenizer, tmp_path / "again", local_workers)) == bytes_of(expected)
    assert not set(done) & set(written[4:])


def test_a_text_that_changes_meanwhile_is_told(text: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    def change(job: Job, parts: Sequence[Part], *rest: Any) -> None:
        (tmp_path / "text" / "b0.txt").write_text("Other words\n")
        backwards(job, parts, *rest)

    with pytest.raises(UserError, match="changed while it was tokenized; run the same command again"):
        make(text, tokenizer, tmp_path / "again", change)
    assert list((tmp_path / "again").iterdir()) == []


def test_a_process_of_workers_ends_with_the_one_that_started_it() -> None:
    program = "import time; from gpt1_jax.data import shards; shards.end_with_parent(); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=30) == 1


# ── Processes, which read parts of the true size: so the small text is one part of each kind, three in all ──────


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FEW", 1)
    monkeypatch.setattr(text_files, "PART_BYTES", 16 * 2**20)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    shards._open.cache_clear()


def test_processes_write_the_same(text: str, tokenizer: Tokenizer, tmp_path: Path, processes: None) -> None:
    one = make(text, tokenizer, tmp_path / "processes", local_workers)
    assert bytes_of(one) == bytes_of(make(text, tokenizer, tmp_path / "here", backwards))


def test_a_lost_process_is_replaced_twice(
    text: str, tokenizer: Tokenizer, tmp_path: Path, processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, losses = subprocess.run, [2]

    def lose(line: list[str], **settings: Any) -> Any:
        if losses[0]:
            losses[0] -= 1
            return run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], **settings)
        return run(line, **settings)

    monkeypatch.setattr(subprocess, "run", lose)
    assert load(make(text, tokenizer, tmp_path / "again", local_workers)).train
    losses[0] = 3
    with pytest.raises(Fault, match=r"ended with -9 again and again"):
        make(text, tokenizer, tmp_path / "never", local_workers)


def test_what_is_wrong_in_a_process_is_told_here(
    text: str, tokenizer: Tokenizer, tmp_path: Path, processes: None
) -> None:
    (tmp_path / "text" / "b3.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"^data\.source: .*b3\.txt is not UTF-8 text"):
        make(text, tokenizer, tmp_path / "again", local_workers)


# ── Beam ──────────────────────────────────────────────────────────────────────────────────────────────────────


@needs_beam
def test_a_pipeline_writes_the_same(text: str, expected: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = make(text, tokenizer, tmp_path / "beam", beam_workers("FnApiRunner", []))
    assert bytes_of(made) == bytes_of(expected)


@pytest.mark.skipif(HAS_BEAM, reason="Apache Beam is installed")
def test_without_beam_the_way_to_install_it_is_told() -> None:
    with pytest.raises(UserError, match=r"pip install 'gpt1_jax\[beam\]'"):
        beam_workers("DirectRunner", [])


# ── Real text, by the command ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with 100 MB of books, and a tokenizer trained on some of them."""
    directory = tmp_path_factory.mktemp("books")
    write_books(directory, MEGABYTES)
    some = [path.read_text() for path in sorted(directory.iterdir())[:10]]
    train_sentencepiece(iter(some), 8192).save(directory / "tokenizer")
    return directory


def prepare(books: Path, output: Path, *flags: str) -> subprocess.Popen[str]:
    tokenizer = f"sentencepiece:{books}/tokenizer/sentencepiece.model"
    line = [f"--source=text:{books}/*.txt", f"--tokenizer={tokenizer}", f"--output={output}", *flags]
    command = [sys.executable, "-m", "gpt1_jax.prepare", *line]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def corpus_of(running: subprocess.Popen[str]) -> Path:
    out, error = running.communicate(timeout=900)
    assert running.returncode == 0, error
    return Path(out.strip())


def children(parent: int) -> list[int]:
    """Returns the children of the process `parent`."""
    stats = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")]
    pids = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat")]
    return [pid for pid, stat in zip(pids, stats, strict=True) if int(stat[1]) == parent]


@pytest.mark.slow
def test_books_become_the_same_bytes_though_workers_are_killed(books: Path, tmp_path: Path) -> None:
    running = prepare(books, tmp_path / "processes")
    killed = []
    while running.poll() is None and len(killed) < 2:
        time.sleep(1)
        if list((tmp_path / "processes").glob(".*/work/count-*.json")):
            for pid in children(running.pid)[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    expected = bytes_of(corpus_of(running))
    assert len(killed) == 2
    assert sum(name.startswith("train-") for name in expected) > 5
    if HAS_BEAM:
        options = ["--option=direct_num_workers=2", "--option=direct_running_mode=multi_processing"]
        running = prepare(books, tmp_path / "beam", "--runner=DirectRunner", *options)
        assert bytes_of(corpus_of(running)) == expected
