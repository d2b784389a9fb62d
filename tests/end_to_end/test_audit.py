"""`audit`: what a step read, when a text was read, and whether steps come out again, asked of a small run."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_support import ROOT, SMALL, STEPS, Runner, make_text, read_metrics

from gpt1_jax.data.left_out import hash_text
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.training import ledger
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.usage.auditing import Audit

ROWS, LENGTH = SMALL["train.batch_size"], SMALL["model.context_length"]


@pytest.fixture(scope="module")
def audit(undisturbed: Path) -> Audit:
    return Audit(str(undisturbed))


@pytest.fixture(scope="module")
def read(audit: Audit) -> dict[tuple[int, int], list[int]]:
    """The tokens of every row that the run read."""
    return {
        (row["step"], row["row"]): row["token_ids"]
        for step in range(1, STEPS + 1)
        for row in audit.rows(step)
    }


def answers(runner: Runner, workdir: Path, *flags: str) -> list[dict[str, Any]]:
    ended = runner.call("audit", f"--workdir={workdir}", *flags)
    assert ended.code == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_the_rows_of_a_step_are_text_of_the_documents_that_they_name(
    runner: Runner, undisturbed: Path, audit: Audit
) -> None:
    rows = answers(runner, undisturbed, "--step=7")
    assert rows == [*audit.rows(7)] and [row["row"] for row in rows] == [*range(ROWS)]
    training = [make_text(number, 300) for number in range(21)]
    found = set()
    for step in range(1, STEPS + 1):
        for row in audit.rows(step):
            assert len(row["token_ids"]) == LENGTH
            # A row may reach into the next document; its first tokens are of its own.
            begin = row["text"][: row["text"].index("\n") + 1] if "\n" in row["text"] else row["text"]
            assert row["weight"] == pytest.approx(1) and not any(
                part["left_out"] for part in row["documents"]
            )
            numbers = [part["document"] for part in row["documents"]]
            assert numbers == [*range(row["document"], row["document"] + len(numbers))]
            at = [number for number, text in enumerate(training) if begin and begin in text]
            found.add((row["document"], at[0]) if len(at) == 1 else None)
    pairs = sorted(found - {None})  # pyright: ignore
    # One document is held out, and those behind it move up.
    assert len(pairs) > 10 and all(number - document in (0, 1) for document, number in pairs)
    assert len({document for document, _ in pairs}) == len(pairs)


@pytest.mark.parametrize("place", [(1, 0, 3, 9), (17, 2, 0, 16), (33, 3, 5, 7), (40, 1, 8, 9)])
def test_a_text_is_found_in_all_places_where_it_was_read_and_nowhere_else(
    audit: Audit, read: dict[tuple[int, int], list[int]], place: tuple[int, int, int, int]
) -> None:
    decode = audit.corpus.tokenizer.decode
    step, row, begin, end = place
    # A text need not begin or end where a token does.
    text = decode(read[step, row][begin:end])[1:]
    visits = [*audit.find(text)]
    assert visits == sorted(visits, key=lambda visit: (visit.step, visit.row))
    whole = {place for place, ids in read.items() if text in decode(ids)}
    places = {(visit.step, visit.row) for visit in visits}
    assert (step, row) in whole <= places
    for visit in visits:
        ids = read[visit.step, visit.row]
        behind = decode(ids[visit.position :])
        # Its first token may begin before it, and a window may end or begin within it.
        assert any(
            behind[skipped:].startswith(text[part:][: len(behind) - skipped]) and len(behind) > skipped
            for skipped in range(12)
            for part in range(len(text) if visit.position == 0 else 1)
        ), (text, behind)
    windows = 1 + (len(audit.corpus.train) - LENGTH) // LENGTH - 1
    assert all(visit.epoch == 1 + ((visit.step - 1) * ROWS + visit.row) // windows for visit in visits)


def test_steps_done_again_lead_to_the_same_bits(runner: Runner, undisturbed: Path, tmp_path: Path) -> None:
    kept = Checkpoints(Run(str(undisturbed)).checkpoints).steps()
    span = f"--replay={kept[0]}:{kept[-1]}"
    (found,) = answers(runner, undisturbed, span)
    assert found == {
        "from": kept[0],
        "to": kept[-1],
        "equal": True,
        "arrays": found["arrays"],
        "differing": [],
    }
    assert found["arrays"] > 30
    # Against a ledger with another checksum.
    other = tmp_path / "other"
    shutil.copytree(undisturbed, other)
    sums = ledger.read(Run(str(other)).directory)[kept[-1]]
    ledger.enter(Run(str(other)).directory, kept[-1], sums | {"params/tokens": 1})
    (found,) = answers(runner, other, span)
    assert not found["equal"] and found["differing"] == ["params/tokens"]


def test_the_ledger_has_every_checkpoint_ever_saved(undisturbed: Path) -> None:
    run = Run(str(undisturbed))
    known, kept = ledger.read(run.directory), Checkpoints(run.checkpoints).steps()
    assert {*range(4, STEPS + 1, 4)} <= known.keys() and len(kept) < len(known)
    assert {step: known[step] for step in kept} == {
        step: Checkpoints(run.checkpoints).sums(step) for step in kept
    }


def test_a_torn_line_of_the_ledger_says_nothing(undisturbed: Path, tmp_path: Path) -> None:
    directory = Run(str(tmp_path)).directory
    content = (undisturbed / ledger.NAME).read_bytes()
    (tmp_path / ledger.NAME).write_bytes(content[:-30])
    before = ledger.read(directory)
    ledger.enter(directory, 99, {"a": 1})
    assert ledger.read(directory) == before | {99: {"a": 1}} and len(before) == content.count(b"\n") - 1


def test_slips_are_told(runner: Runner, audit: Audit, undisturbed: Path) -> None:
    for call, told in (
        (lambda: next(audit.rows(0)), f"--step=0 is no step of this run; name one from 1 to {STEPS}"),
        (lambda: next(audit.rows(STEPS + 1)), f"--step={STEPS + 1}"),
        (lambda: audit.find("nowhere at all"), "does not occur in the text of the run"),
        (lambda: audit.find(""), "--find is empty"),
        (lambda: audit.replay("8"), "not a span of steps"),
        (lambda: audit.replay("8:8"), "not a span of steps"),
        (lambda: audit.replay(f"3:{STEPS}"), "no checkpoint of step 3"),
        (lambda: audit.replay(f"{STEPS - 4}:{STEPS - 1}"), "knows no checksums"),
    ):
        with pytest.raises(UserError, match=told):
            call()
    for flags in ([], ["--step=1", "--find=a"], ["--verify", "--documents"]):
        ended = runner.call("audit", f"--workdir={undisturbed}", *flags)
        assert ended.code == 2 and "Ask one question" in ended.stderr


def test_checkpoints_at_powers_of_two_stay_if_that_is_asked_for(runner: Runner, tmp_path: Path) -> None:
    runner.run(
        tmp_path / "run",
        **{"train.num_steps": 20, "train.keep_log_spaced": True, "train.checkpoint_every": 3},
    )
    kept = Checkpoints(Run(str(tmp_path / "run")).checkpoints).steps()
    assert {1, 2, 4, 8, 16} <= {*kept} and 3 not in kept


# docs/inside.md has a larger run in mind.
SMALLER = {
    "--step=700": "--step=7",
    "--replay=1000:1500": "--replay=36:40",
    ", 3)": ", 1)",
    '--find="In the beginning God created"': "--find=river",
    '--find="In the beginning"': "--find=river",
}


@pytest.mark.slow
def test_the_page_about_looking_inside_runs(
    runner: Runner, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "pretrain-tiny").symlink_to(undisturbed)
    (tmp_path / "texts.txt").write_text("the river\nthe old song\n")
    page = (ROOT / "docs" / "inside.md").read_text()
    for larger, smaller in SMALLER.items():
        assert larger in page
        page = page.replace(larger, smaller)
    commands = re.findall(r"^python -m gpt1_jax\.(.*)$", page, re.MULTILINE)
    assert len(commands) == 7 and runner.commands is not None
    for line in commands:
        module, *flags = shlex.split(line.partition(" > ")[0])
        ended = runner.commands.run(module, *flags, directory=tmp_path)
        assert ended.code == 0 and ended.stdout, ended
    (tmp_path / "explained.html").unlink()
    exec("\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)), {})
    assert "In the beginning" in (tmp_path / "explained.html").read_text()


# ── Documents, and leaving some out ──────────────────────────────────────────────────────────────────────────


def test_documents_are_listed_with_numbers_and_the_hashes_of_their_texts(
    runner: Runner, undisturbed: Path, audit: Audit
) -> None:
    listed = answers(runner, undisturbed, "--documents")
    texts = [make_text(number, 300) for number in range(21)]
    training = [text for text in texts if hash_text(text) in {entry["hash"] for entry in listed}]
    assert [(entry["document"], entry["hash"]) for entry in listed] == [
        (number, hash_text(text)) for number, text in enumerate(training)
    ]
    assert len(training) == 20 and all(training[x["document"]].startswith(x["text"]) for x in listed)
    # Only those that have a text.
    sought = training[7][100:160]
    found = [*audit.documents(sought)]
    assert [x["document"] for x in found] == [i for i, text in enumerate(training) if sought in text] == [7]


def losses(workdir: Path) -> list[float]:
    return [entry["loss"] for entry in read_metrics(workdir) if entry["kind"] == "train"]


def test_runs_differ_by_the_documents_that_are_left_out_alone(
    runner: Runner, undisturbed: Path, audit: Audit, tmp_path: Path
) -> None:
    first_read: dict[int, int] = {}
    for step in range(1, 9):
        for row in audit.rows(step):
            for part in row["documents"]:
                first_read.setdefault(part["document"], step)
    late = max(first_read, key=lambda document: first_read[document])
    unread = next(number for number in range(20) if number not in first_read)
    names = tmp_path / "names"

    def run(name: str, *lines: object) -> Path:
        names.write_text("".join(f"{line}\n" for line in lines))
        runner.run(tmp_path / name, **{"train.num_steps": 8, "data.without": names})
        return tmp_path / name

    # A document that no step reads.
    whole, without = run("unread", unread), run("without", late)
    assert losses(whole) == losses(undisturbed)[:8]
    sums = [ledger.read(Run(str(run)).directory)[8] for run in (whole, undisturbed)]
    assert sums[0] == sums[1]
    touched = min(
        step for step in range(1, 9) for row in Audit(str(without)).rows(step) if row["weight"] < 1 - 1e-6
    )
    assert touched in (first_read[late], first_read[late] - 1) and touched > 2
    assert losses(without)[: touched - 1] == losses(whole)[: touched - 1]
    assert all(
        one != other
        for one, other in zip(losses(without)[touched - 1 :], losses(whole)[touched - 1 :], strict=True)
    )
    parts = [part for row in Audit(str(without)).rows(first_read[late]) for part in row["documents"]]
    assert {part["document"] for part in parts if part["left_out"]} == {late}
    (found,) = answers(runner, without, "--replay=4:8")
    assert found["equal"]

    # What is left out cannot change, but the same document may be named otherwise.
    told = runner.run(without, expect=2, **{"train.num_steps": 8})
    assert "data.without=None does not leave out the documents" in told
    names.write_text(f"{unread}\n")
    told = runner.run(without, expect=2, **{"train.num_steps": 8, "data.without": names})
    assert f"data.without={names} does not leave out the documents" in told
    names.write_text(next(x["hash"] for x in audit.documents() if x["document"] == late))
    # The next start enters what a crash has cost the ledger.
    lines = (without / ledger.NAME).read_text().splitlines(keepends=True)
    (without / ledger.NAME).write_text("".join(lines[:-1]))
    assert "is done" in runner.run(without, **{"train.num_steps": 8, "data.without": names})
    assert (without / ledger.NAME).read_text().splitlines(keepends=True) == lines


# ── Masks ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_run_that_fills_masks_tells_what_it_hid_and_comes_out_again(runner: Runner, tmp_path: Path) -> None:
    runner.run(
        tmp_path / "bert",
        **{"model.causal": False, "data.tokenizer": "byte_bpe", "data.mask_documents": True}
        | {"train.num_steps": 8, "train.eval_every": 8},
    )
    audit = Audit(str(tmp_path / "bert"))
    tokenizer = audit.corpus.tokenizer
    ids = tokenizer.special_ids
    for step in (1, 8):
        for row in answers(runner, tmp_path / "bert", f"--step={step}"):
            read = row["token_ids"]
            assert (read[0], read[-1], len(read)) == (ids["cls"], ids["sep"], LENGTH)
            assert 0 < len(row["hidden"]) <= 3 and ids["mask"] not in dict(row["hidden"]).values()
            original = list(read)
            for position, id in row["hidden"]:
                original[position] = id
            assert tokenizer.decode(original[1:-1]) == row["text"]
            text = row["text"].strip()[2:14]
            assert text in row["text"]
            places = [(x.step, x.row) for x in audit.find(text)]
            assert (step, row["row"]) in places
    (found,) = answers(runner, tmp_path / "bert", "--replay=4:8")
    assert found["equal"]


# ── The ledger ───────────────────────────────────────────────────────────────────────────────────────────────


def test_published_checkpoints_are_verified_by_the_ledger_alone(
    runner: Runner, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed / "checkpoints", tmp_path / "checkpoints")
    for told in ("has no checksums.jsonl to verify by",):
        ended = runner.call("audit", f"--workdir={tmp_path}", "--verify")
        assert ended.code == 2 and told in ended.stderr
    shutil.copy(undisturbed / ledger.NAME, tmp_path)
    found = answers(runner, tmp_path, "--verify")
    kept = Checkpoints(Run(str(undisturbed)).checkpoints).steps()
    assert [entry["step"] for entry in found] == kept and all(entry["equal"] for entry in found)
    assert found[0]["arrays"] > 30
    # One array that is not what was saved.
    directory = Run(str(tmp_path)).directory
    ledger.enter(directory, kept[0], ledger.read(directory)[kept[0]] | {"params/tokens": 1})
    ended = runner.call("audit", f"--workdir={tmp_path}", "--verify")
    assert ended.code == 1 and f"not what the run saved: {kept[0]};" in ended.stderr
    first, *others = map(json.loads, ended.stdout.splitlines())
    assert (first["equal"], first["differing"]) == (False, ["params/tokens"])
    assert all(entry["equal"] for entry in others)


def test_a_line_that_a_crash_has_cost_is_entered_from_the_checkpoint_itself(
    undisturbed: Path, tmp_path: Path
) -> None:
    run = Run(str(undisturbed))
    checkpoints, directory = Checkpoints(run.checkpoints), Run(str(tmp_path)).directory
    lines = (undisturbed / ledger.NAME).read_text().splitlines(keepends=True)
    (tmp_path / ledger.NAME).write_text("".join(lines[:-1]))
    assert STEPS not in ledger.read(directory)
    for _ in range(2):
        ledger.mend(directory, checkpoints.steps(), checkpoints.sums)
        assert (tmp_path / ledger.NAME).read_text().splitlines(keepends=True) == lines
    # What was saved at a step anew, on other devices, is what counts.
    ledger.enter(directory, STEPS, {"a": 1})
    ledger.mend(directory, checkpoints.steps(), checkpoints.sums)
    assert ledger.read(directory) == ledger.read(run.directory)


def test_steps_that_a_divergence_set_aside_are_no_longer_known(tmp_path: Path) -> None:
    directory = Run(str(tmp_path)).directory
    for step in (4, 8, 12):
        ledger.enter(directory, step, {"a": step})
    ledger.set_aside(directory, 4)
    assert ledger.read(directory) == {4: {"a": 4}}
    ledger.enter(directory, 8, {"a": 9})
    ledger.set_aside(directory, 8)
    assert ledger.read(directory) == {4: {"a": 4}, 8: {"a": 9}}
    assert (tmp_path / ledger.NAME).read_text().count("diverged") == 2
