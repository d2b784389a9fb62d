"""The paper's tables beside ours: what is computed from predictions that are there, and what is said of it."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from benchmarks.glue_submission import FILES, write_submission
from benchmarks.paper import write
from benchmarks.paper_runs import find_data, read_curves
from benchmarks.published import ABLATIONS, COLA, GLUE, MNLI, RACE, SNLI, SST2, STSB, TABLES, Cell
from benchmarks.seeds import read_examples, resample, score
from benchmarks.variants import write_scores
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.catalog import find_task

ROWS = 40
GENERATOR = np.random.default_rng(5)
PAIRS = {
    "qnli": ("question", "sentence"),
    "mrpc": ("#1 String", "#2 String"),
    "qqp": ("question1", "question2"),
}
LABEL = {"mrpc": "Quality", "qqp": "is_duplicate", "mnli": "gold_label", "stsb": "score"}
FOLDER = {"sst2": "SST-2", "stsb": "STS-B", "mrpc": "MRPC", "qqp": "QQP", "mnli": "MNLI"}
NAMES = {"cola": "CoLA", "qnli": "QNLI", "rte": "RTE", "wnli": "WNLI"} | FOLDER


def labels_of(task: str) -> list[str]:
    """Labels as the official files spell them."""
    if task == "stsb":
        return [f"{value:.3f}" for value in GENERATOR.integers(0, 21, ROWS) / 4]
    return GENERATOR.choice(find_task(task).labels, ROWS).tolist()


def put_data(data: Path, task: str) -> dict[str, list[str]]:
    """Writes a set's official files, and returns the labels of each part of validation."""
    folder = data / NAMES[task]
    folder.mkdir(parents=True)
    texts = ["sentence"] if task == "sst2" else PAIRS.get(task, ("sentence1", "sentence2"))
    head = "\t".join((*texts, LABEL.get(task, "label")))
    found = {}
    for file in ("train", "dev_matched", "dev_mismatched") if task == "mnli" else ("train", "dev"):
        labels = labels_of(task)
        if task == "cola":
            lines = [f"x\t{label}\t\tA cat {number}." for number, label in enumerate(labels)]
        else:
            lines = [head, *("\t".join((*texts, label)) for label in labels)]
        (folder / f"{file}.tsv").write_text("\n".join(lines) + "\n")
        if file != "train":
            found["_".join(("validation", *file.split("_")[1:]))] = labels
    return found


def put_run(workdir: Path, predictions: dict[str, list[str]], **results: float) -> None:
    """Writes what is left of a fine-tuning: files of predictions by their names, and the scores that results tell."""
    (workdir / "predictions").mkdir(parents=True)
    for name, values in predictions.items():
        lines = [f"{number}\t{value}" for number, value in enumerate(values)]
        (workdir / "predictions" / f"{name}.tsv").write_text("\n".join(("index\tprediction", *lines)) + "\n")
    (workdir / "results.json").write_text(json.dumps({"predictions": {"step": 9, **results}}))


def blur(labels: list[str], share: float) -> list[str]:
    """Some of the labels given to others."""
    found = np.array(labels)
    wrong = GENERATOR.random(len(labels)) < share
    found[wrong] = GENERATOR.permutation(found[wrong])
    return found.tolist()


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data of GLUE's nine tasks, and three seeds of each."""
    data, output = (tmp_path_factory.mktemp(name) for name in ("data", "output"))
    for task in NAMES:
        parts = put_data(data, task)
        for seed in range(3):
            noisy = {name: blur(labels, 0.2 + 0.1 * seed) for name, labels in parts.items()}
            test = (
                {"test_matched": ["neutral"], "test_mismatched": ["neutral"]}
                if task == "mnli"
                else {"test": [str(seed)]}
            )
            put_run(
                output / task / "full" / str(seed),
                noisy | test,
                **{find_task(task).metrics[0]: 0.5 - seed / 10},
            )
    return data, output


# ── Scores ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_papers_means_of_table_5_are_those_of_its_rows() -> None:
    for *row, average in ABLATIONS.values():
        assert np.mean(row) == pytest.approx(average, abs=0.1)
    table_4 = next(cells for title, cells in TABLES.items() if title.startswith("Table 4"))
    assert [table_4[cell] for cell in (COLA, SST2)] == list(ABLATIONS["full"][:2])


@pytest.mark.parametrize(
    ("task", "metric", "reference"),
    [
        ("rte", "accuracy", lambda labels, found: (labels == found).mean()),
        ("mrpc", "f1", f1_score),
        ("cola", "matthews_correlation", matthews_corrcoef),
        ("stsb", "pearson", lambda labels, found: np.corrcoef(labels, found)[0, 1]),
        ("stsb", "spearman", None),
    ],
)
def test_a_score_is_the_median_of_the_seeds_within_what_resamples_give(task: str, metric, reference) -> None:
    labels = GENERATOR.integers(0, 2, 300).astype(float)
    found = np.array(
        [np.where(GENERATOR.random(300) < share, labels, 1 - labels) for share in (0.6, 0.7, 0.9)]
    )
    median, draws = resample(metric, labels, found, find_task(task))
    # Of two classes Spearman's correlation is Pearson's.
    reference = reference or (lambda labels, found: np.corrcoef(labels, found)[0, 1])
    expected = [100 * reference(labels, one) for one in found]
    assert median == pytest.approx(sorted(expected)[1])
    assert np.quantile(draws, 0.025) < median < np.quantile(draws, 0.975)
    assert min(expected) - 20 < draws.min() and draws.max() < max(expected) + 20


def test_fine_tunings_that_did_not_end_are_not_counted(glue: tuple[Path, Path], tmp_path: Path) -> None:
    data, output = glue
    source = f"files:{data}/CoLA"
    whole = score(output / "cola" / "full", COLA, source)
    assert whole is not None and (whole.seeds, whole.part) == (3, "validation")
    put_run(tmp_path / "0", {"validation": ["1"] * ROWS})
    (tmp_path / "0" / "results.json").write_text('{"validation": {"accuracy": 0.5}}')
    assert score(tmp_path, COLA, source) is None


def test_predictions_of_other_examples_are_told(glue: tuple[Path, Path], tmp_path: Path) -> None:
    put_run(tmp_path / "0", {"validation": ["1"]})
    with pytest.raises(UserError, match=r"validation.tsv has 1 prediction, and the data 40 such examples"):
        score(tmp_path, COLA, f"files:{glue[0]}/CoLA")


def test_a_test_part_with_labels_is_what_is_scored(tmp_path: Path) -> None:
    pairs = [
        {"gold_label": label, "sentence1": "p", "sentence2": "h"}
        for label in ("neutral", "-", "contradiction")
    ]
    for part in ("train", "dev", "test"):
        (tmp_path / f"snli_1.0_{part}.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    put_run(tmp_path / "runs/0", {"test": ["neutral"] * 3, "validation": ["entailment"] * 2})
    found = score(tmp_path / "runs", SNLI, f"files:{tmp_path}")
    assert found is not None and (found.part, found.median) == ("test", 50)


def test_groups_are_weighed_alike(glue: tuple[Path, Path]) -> None:
    data, output = glue
    found = [score(output / "mnli" / "full", cell, f"files:{data}/MNLI") for cell in (MNLI, *GLUE[5])]
    both, matched, mismatched = (one.median for one in found if one is not None)
    assert both == pytest.approx((matched + mismatched) / 2)


# ── The page ─────────────────────────────────────────────────────────────────────────────────────────────────


def rows_of(page: str) -> dict[str, list[str]]:
    """The cells of each row by its first cell; the first table that has such a row counts."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"
    ]
    return {name: cells for name, *cells in reversed(lines)}


def test_ours_stands_beside_the_papers_with_the_means_of_glue(glue: tuple[Path, Path]) -> None:
    data, output = glue
    sources, missing = find_data(data)
    assert set(sources) == {*NAMES} and "has no folder SciTail" in missing["scitail"]
    page = write(output, sources, missing)
    rows = rows_of(page)
    found = {
        cell: score(output / cell.task / "full", cell, sources[cell.task]) for group in GLUE for cell in group
    }
    cola = found[COLA]
    assert cola is not None
    assert rows["CoLA"] == ["matthews_correlation", str(cola), "validation", "3", "45.4", cola.beside(45.4)]
    expected = np.mean([np.mean([found[cell].median for cell in group]) for group in GLUE])  # type: ignore
    assert rows["mean with WNLI"][1].startswith(f"{expected:.1f} (") and rows["mean with WNLI"][4] == "72.8"
    assert rows["mean without WNLI"][4] == "75.1"
    assert "- `race` is left out:" in page and rows["SNLI"][1:4] == ["", "", ""]
    told = json.loads((output / "paper.json").read_text())
    assert told["full"]["CoLA"]["median"] == pytest.approx(cola.median)
    without = write(output, {task: sources[task] for task in sources if task != "wnli"}, missing)
    assert rows_of(without)["mean with WNLI"][1] == "lacks WNLI"


def test_a_difference_that_seeds_do_not_resolve_is_said_so(glue: tuple[Path, Path], tmp_path: Path) -> None:
    data, output = glue
    found = score(output / "rte" / "full", Cell("RTE", "rte", "accuracy"), f"files:{data}/RTE")
    assert found is not None
    assert found.beside(found.median + 1) == "not resolved: -1.0"
    assert found.beside(0) == f"+{found.median:.1f}"
    assert found._replace(seeds=1).beside(0).startswith("not resolved: ")


def test_what_blocks_are_worth_is_drawn_and_told(tmp_path: Path) -> None:
    labels = put_data(tmp_path / "data", "mnli")
    for blocks, share in enumerate((0.9, 0.5, 0.0)):
        for seed in ("0", "1"):
            noisy = {name: blur(values, share) for name, values in labels.items()}
            put_run(tmp_path / f"mnli/transfer_{blocks}" / seed, noisy)
    page = write(tmp_path, *find_data(tmp_path / "data"))
    row = next(line for line in page.splitlines() if "up to 9 points" in line)
    assert "| 100.0 (100.0 to 100.0) | +" in row and row.startswith("| MNLI-m | ")
    assert (tmp_path / "figure2_left.png").read_bytes().startswith(b"\x89PNG")


def test_zero_shot_scores_are_0_at_chance_and_1_at_the_best_single_model(tmp_path: Path) -> None:
    for step, accuracy in ((1, 0.25), (64, 0.59)):
        write_scores(tmp_path / f"race/zero_shot_transformer/{step}", {"step": step, "accuracy": accuracy})
    curve = read_curves(tmp_path)["transformer"][RACE]
    assert curve == {1: pytest.approx(0), 64: pytest.approx(1)}
    page = write(tmp_path, {}, {})
    assert "| transformer | 64 |  |  |  | 1.00 |" in page
    assert (tmp_path / "figure2_right.png").read_bytes().startswith(b"\x89PNG")


# ── GLUE's server ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_submission_has_official_names_and_headers_and_the_best_seeds_predictions(
    glue: tuple[Path, Path],
) -> None:
    """In this fixture the first seed validates best, and each test set has one example."""
    _, output = glue
    put_run(output / "ax/full/0", {"test": ["entailment"]})
    assert write_submission(output) == []
    first = (output / "rte/full/0/predictions/test.tsv").read_bytes()
    with zipfile.ZipFile(output / "submission.zip") as archive:
        assert sorted(archive.namelist()) == sorted(FILES)
        assert archive.read("RTE.tsv") == first and first.startswith(b"index\tprediction\n0\t")
        assert len({archive.read(name).split(b"\t")[-1] for name in ("MNLI-m.tsv", "MNLI-mm.tsv")}) <= 2
        assert archive.read("AX.tsv") == b"index\tprediction\n0\tentailment\n"
    assert sorted(path.name for path in (output / "submission").iterdir()) == sorted(FILES)


def test_what_the_submission_lacks_is_named(tmp_path: Path) -> None:
    put_run(tmp_path / "stsb/full/3", {"test": ["1.250"], "validation": ["1.000"]}, pearson=0.5)
    lacking = write_submission(tmp_path)
    assert set(FILES) - set(lacking) == {"STS-B.tsv"}
    assert (tmp_path / "submission/STS-B.tsv").read_text() == "index\tprediction\n0\t1.250\n"
    assert "GLUE's server also wants CoLA.tsv, SST-2.tsv" in write(tmp_path, {}, {})


# ── Data ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_data_that_is_missing_or_damaged_is_left_out_with_the_reason(tmp_path: Path) -> None:
    put_data(tmp_path, "rte")
    (tmp_path / "WNLI").mkdir()
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2/train.tsv").write_text("sentence\tlabel\nfine\tmaybe\n")
    (tmp_path / "AX").mkdir()
    (tmp_path / "AX/AX.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
    sources, missing = find_data(tmp_path)
    assert sources == {"rte": f"files:{tmp_path}/RTE"}
    assert "has no train.tsv" in missing["wnli"] and "'label' is 'maybe'" in missing["sst2"]
    assert missing["ax"] == "a run of mnli predicts it."
    assert len(read_examples("rte", sources["rte"], "validation")) == ROWS and STSB.task in missing
