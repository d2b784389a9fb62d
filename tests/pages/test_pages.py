"""The page of a run: all that its files say, whole, without a script, and no text of a run is markup."""

import dataclasses
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faults.commands import Commands
from pages_support import HOSTILE, judged, make_run, make_tuned

from gpt1_jax.errors import UserError
from gpt1_jax.pages import charts, facts
from gpt1_jax.pages.facts import find_runs, read_facts
from gpt1_jax.pages.judged import Judged, judge_scores
from gpt1_jax.pages.page import describe_score, make_page, write_page
from gpt1_jax.run import Run
from gpt1_jax.tasks.encoded import NO_WORD
from gpt1_jax.tasks.spans import Answer
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.training.judging import Outcome, judge
from gpt1_jax.training.writers import TensorBoardWriter

# Elements that have no end.
_VOID = {"meta", "br", "img", "link"}
# What a judge of this kind of task does not look at.
ANY: Any = None


class Reader(HTMLParser):
    """Reads a page strictly: every element must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n" if not self.open or self.open[-1] not in ("style", "script") else ""


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_a_page_has_curves_scores_samples_and_what_differs_from_the_paper(tmp_path: Path) -> None:
    page = read(write_page(make_run(tmp_path / "run")).read_text())
    for words in (
        "Loss (nats a token, or of the task)",
        "Learning rate",
        "Norm of the gradient",
        "Tokens per second",
    ):
        assert words in page.text
    assert "once upon a time" in page.text and "the first" in page.text
    assert "2.5" in page.text and "model.num_layers" in page.text and "12" in page.text
    assert "data.cache_dir" not in page.text


def test_a_curve_goes_through_the_logged_values() -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (5.0, 1.0)]
    picture = charts.chart("Loss", [charts.Series("loss", 0, points)])
    found = re.search(r'class="curve c0" d="M([^"]*)"', picture)
    assert found is not None
    places = np.array([[float(x) for x in place.split()] for place in found[1].split("L")])
    # Both axes are linear, and up is more.
    across, down = (np.polyfit([p[i] for p in points], places[:, i], 1) for i in (0, 1))
    np.testing.assert_allclose(np.polyval(across, [p[0] for p in points]), places[:, 0], atol=0.06)
    np.testing.assert_allclose(np.polyval(down, [p[1] for p in points]), places[:, 1], atol=0.06)
    assert across[0] > 0 > down[0]


def test_many_points_become_few_with_the_same_mean_and_the_last_step() -> None:
    points = [(float(i), float(i % 7)) for i in range(3000)]
    thinned = charts._thinned(points)
    assert len(thinned) == 300 and thinned[-1][0] == 2999
    assert np.mean([y for _, y in thinned]) == pytest.approx(np.mean([y for _, y in points]))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 1e-4), (1e-9, 3e-9), (17, 100_000), (5, 5.1)])
def test_ticks_are_few_round_numbers_within_the_range(low: float, high: float) -> None:
    found = charts.ticks(low, high)
    assert 3 <= len(found) <= 8 and low - 1e-12 <= found[0] and found[-1] <= high * (1 + 1e-9)
    np.testing.assert_allclose(np.diff(found), found[1] - found[0])
    assert charts.ticks(2, 2) == [2]


def test_nothing_in_a_run_is_markup_or_a_script(tmp_path: Path) -> None:
    run = make_tuned(tmp_path / "run", **{"init_from": HOSTILE, "data.source": f"files:{HOSTILE}"})
    board = TensorBoardWriter(run.directory / "tensorboard", 1)
    board.add_text(5, "sample", HOSTILE)
    board.close()
    hostile = judged(names=(HOSTILE, "good"), text=HOSTILE)
    for page in (write_page(run, hostile).read_text(), make_page([read_facts(run, hostile)] * 2)):
        reader = read(page)
        kinds = [attrs.get("type") for tag, attrs in reader.seen if tag == "script"]
        assert kinds in ([], ["application/json"])
        assert not any(tag in ("img", "link", "iframe") for tag, _ in reader.seen)
        assert not any(name.startswith("on") for _, attrs in reader.seen for name in attrs)
        assert HOSTILE in " ".join(reader.text.split())


def test_a_page_loads_nothing(tmp_path: Path) -> None:
    page = write_page(make_run(tmp_path / "run")).read_text()
    assert not re.search(r"url\(|@import|src=|href=", page)
    assert "default-src 'none'" in page
    assert set(re.findall(r"https?://[^\"'<> ]*", page)) <= {"http://www.w3.org/2000/svg"}


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert write_page(run).read_text() == write_page(run).read_text()


def test_a_fine_tuned_runs_page_has_its_mistakes_and_a_later_one_keeps_them(tmp_path: Path) -> None:
    run = make_tuned(tmp_path / "run")
    write_page(run, judged())
    text = read(write_page(run).read_text()).text
    assert "says good with probability 0.9; right is bad, to which it gives 0.1" in text
    assert text.index("probability 0.9") < text.index("probability 0.6")
    assert "0.3 (0.1 to 0.5)" in text and "0.454" in text
    assert read_facts(run).judged == judged()
    # A key without a default has an empty cell.
    assert "MISSING" not in text


def test_what_another_page_keeps_is_passed_over(tmp_path: Path) -> None:
    run = make_tuned(tmp_path / "run")
    for content in (
        "",
        facts.KEPT_BEGIN,
        f"{facts.KEPT_BEGIN}[]{facts.KEPT_END}",
        f'{facts.KEPT_BEGIN}{{"step":1}}{facts.KEPT_END}',
    ):
        (run.directory / "report.html").write_text(content)
        assert read_facts(run).judged is None


def test_a_half_written_log_is_read_as_far_as_it_is_sound(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"step": 41, "kind": "train", "loss": NaN}\n{"step": 4')
    assert read_facts(run).curves["loss"][-1] == (40, 3.0)


def test_samples_from_before_a_crash_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", sample="before")
    # A later start; files have the second in their names.
    later = time.time() + 10
    monkeypatch.setattr(time, "time", lambda: later)
    board = TensorBoardWriter(run.directory / "tensorboard", 21)
    board.add_text(40, "sample", "after")
    board.close()
    (run.directory / "tensorboard" / "note").write_bytes(b"\xff" * 40)
    assert read_facts(run).samples == [(10, "the first"), (40, "after")]


def test_runs_side_by_side_show_where_they_differ(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, **{"model.num_layers": n}) for name, n in (("one", 1), ("two", 2))]
    page = read(make_page([read_facts(run) for run in runs])).text
    assert "model.num_layers" in page and "model.num_heads" not in page
    assert "one loss" in page and "two loss" in page


def test_zero_shot_scores_of_several_checkpoints_are_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    lines = [{"step": step, "accuracy": step / 100, "examples": 9} for step in (10, 20)]
    (run.directory / "zero_shot-demo_next_verse.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    page = read(write_page(run).read_text()).text
    assert "zero-shot demo next verse accuracy" in page and "examples" not in page
    assert read_facts(run).curves["zero-shot demo_next_verse accuracy"] == [(10, 0.1), (20, 0.2)]


def test_the_perplexity_of_hidden_pieces_is_named_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", **{"model.causal": False})
    page = read(write_page(run).read_text()).text
    assert "Perplexity of the hidden pieces of the held-out text" in page and "masked perplexity" in page
    assert "Perplexity of the held-out text" not in page
    assert describe_score(read_facts(run)).startswith("masked loss 3.4")
    # Beside a run that predicts the next token, each has a picture of its own.
    both = read(make_page([read_facts(run), read_facts(make_run(tmp_path / "gpt"))])).text
    assert (
        "Perplexity of the hidden pieces of the held-out text" in both
        and "Perplexity of the held-out text" in both
    )


def test_a_list_says_the_score_of_each_run(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "books")
    make_tuned(tmp_path / "runs" / "tuned" / "cola")
    said = [describe_score(read_facts(run)) for run in find_runs(Run(str(tmp_path)).directory)]
    assert said == ["loss 3.4, 2.5 bits per byte", "matthews correlation 0.3"]
    # A best that others followed is told with its step.
    facts = read_facts(find_runs(Run(str(tmp_path)).directory)[0])
    went_on = {**facts.curves, "loss": [*facts.curves["loss"], (50, 3.6)]}
    said = describe_score(dataclasses.replace(facts, curves=went_on))
    assert said == "loss 3.4, 2.5 bits per byte at step 40"
    with pytest.raises(UserError, match="holds no run directory"):
        find_runs(Run(str(tmp_path / "runs" / "books" / "tensorboard")).directory)


def test_classes_are_judged_as_scikit_learn_counts_them() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(60, 1, 3)), generator.integers(0, 3, 60)
    task = Task("custom", "classification", ("accuracy",), labels=("a", "b", "c"))
    examples = [Example((f"text {i}",), label if i else None, "") for i, label in enumerate(labels.tolist())]
    found = judge(7, task, "regression", Outcome(logits.argmax(-1), ANY, [*logits]), examples)
    assert found is not None
    counts = metrics.confusion_matrix(labels[1:], logits[1:, 0].argmax(-1))
    assert {(a, b): n for a, b, n in found.counts} == {
        ("abc"[i], "abc"[j]): counts[i, j] for i in range(3) for j in range(3) if counts[i, j]
    }
    rights = [mistake.right for mistake in found.mistakes]
    assert rights == sorted(rights) and len(rights) == 20
    assert Judged.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_tags_are_judged_word_by_word_as_scikit_learn_counts_them() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(1)
    task = Task("custom", "tagging", ("f1",), labels=("O", "B-X", "I-X"))
    # Three sentences, of which the second, with no known tags, is in two rows; -1 is no word.
    sentences = [("a", "b", "c"), ("d", "e"), ("f",)]
    rows = [[-1, 0, 1, 2, -1], [-1, 0, -1], [-1, 0, -1], [-1, -1, 2, -1]]
    outputs = [generator.normal(size=(len(row), 3)).astype(np.float32) for row in rows]
    encoded: Any = SimpleNamespace(
        owners=np.array([0, 1, 1, 2]),
        classes=3,
        tags=lambda row: np.array([NO_WORD if t < 0 else t for t in rows[row]]),
    )
    examples = [Example(sentences[0], (0, 1, 2)), Example(sentences[1], None), Example(sentences[2], (2,))]
    found = judge(7, task, "regression", Outcome([], encoded, outputs), examples)
    assert found is not None
    predicted = [int(outputs[0][place].argmax()) for place in (1, 2, 3)] + [int(outputs[3][2].argmax())]
    counts = metrics.confusion_matrix([0, 1, 2, 2], predicted, labels=[0, 1, 2])
    names = task.labels
    assert {(a, b): n for a, b, n in found.counts} == {
        (names[i], names[j]): counts[i, j] for i in range(3) for j in range(3) if counts[i, j]
    }
    wrong = [place for place, (a, b) in enumerate(zip([0, 1, 2, 2], predicted, strict=True)) if a != b]
    marked = ["»a« b c", "a »b« c", "a b »c«", "»f«"]
    assert {mistake.texts[0] for mistake in found.mistakes} == {marked[place] for place in wrong} != set()
    for mistake in found.mistakes:
        assert mistake.probability is not None and mistake.right is not None
        assert mistake.probability >= mistake.right


def test_answers_that_are_not_right_are_told_the_surest_first() -> None:
    context = f"{'x ' * 300}in 1066 by William."
    place = context.index("1066")
    task = Task("custom", "span", ("exact_match", "f1"), no_answer=True)
    examples = [
        Example((f"question {i}", context), label)
        for i, label in enumerate([((place, place + 4),)] * 3 + [()])
    ]
    said = [
        Answer("x", 0, 1, 0.3),
        Answer("the 1066", 0, 8, 0.9),
        Answer("", 0, 0, 0.5),
        Answer("William", 5, 12, 0.7),
    ]
    found = judge(7, task, "regression", Outcome(said, ANY, []), examples)
    assert found is not None and found.counts == ()
    told = [(m.texts[0], m.predicted, m.probability, m.label) for m in found.mistakes]
    assert told == [
        ("question 3", "“William”", 0.7, "that there is no answer"),
        ("question 2", "that there is no answer", 0.5, "“1066”"),
        ("question 0", "“x”", 0.3, "“1066”"),
    ]
    assert all("in 1066 by" in m.texts[1] and len(m.texts[1]) < 400 for m in found.mistakes[1:])


def test_completions_that_are_not_right_are_told_the_farthest_first() -> None:
    task = Task("custom", "completion", ("exact_match",))
    examples = [Example((f"prompt {i}",), " the old song") for i in range(3)]
    found = judge(
        7, task, "regression", Outcome(["the old song ", "the old river", "light"], ANY, []), examples
    )
    assert found is not None
    assert [(m.texts, m.predicted) for m in found.mistakes] == [
        (("prompt 2",), "“light”"),
        (("prompt 1",), "“the old river”"),
    ]


def test_scores_are_judged_by_their_distance() -> None:
    found = judge_scores(3, [1.0, 2.0, 5.0], [1.1, 4.0, 4.5], [("a",), ("b",), ("c",)])
    assert [mistake.texts for mistake in found.mistakes] == [("b",), ("c",), ("a",)]
    assert found.points == ((1.0, 1.1), (2.0, 4.0), (5.0, 4.5))


def test_the_command_writes_pages_pictures_and_lists(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "runs" / "one"), make_run(tmp_path / "runs" / "two", sample="another")
    cases: list[tuple[list[str], int, str]] = [
        ([str(one.directory)], 0, "report.html"),
        ([str(one.directory), str(two.directory), f"--output={tmp_path}/both.html"], 0, "both.html"),
        ([str(tmp_path / "runs")], 0, "3.4"),
        (["--structure", str(one.directory)], 0, "</svg>"),
        ([], 2, "RUN"),
        ([str(tmp_path / "nowhere")], 2, "holds no run directory"),
        (["--structure", str(one.directory), str(two.directory)], 2, "name one run"),
        ([str(one.directory), f"--output={tmp_path}"], 2, "is a directory; name a file in it"),
        ([str(one.directory), "--prompt=a"], 2, "--prompt=a goes with --explain only"),
        ([str(one.directory), "--step=5"], 2, "--step=5 goes with --explain only"),
        (["--explain", str(one.directory)], 2, "--prompt is missing"),
        (["--explain", str(one.directory), "--prompt=a", "--step=x"], 2, "--step='x' is not a checkpoint"),
        (["--explain", "--structure", str(one.directory), "--prompt=a"], 2, "give one of them"),
        (["--explain", *[str(one.directory)] * 3, "--prompt=a"], 2, "name one or two"),
    ]
    with Commands() as commands:
        for flags, code, words in cases:
            ended: Any = commands.run("report", *flags)
            assert ended.code == code and words in (ended.stderr if code else ended.stdout), (flags, ended)
    assert "another" in (tmp_path / "both.html").read_text()
