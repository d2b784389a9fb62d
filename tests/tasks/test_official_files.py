"""`files:DIR`: each set as it is distributed, read whole; what is missing or wrong is named."""

import gzip
import json
import subprocess
from pathlib import Path

import pytest
from large_data import LARGE, needs_large

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.official_files import LAYOUTS, read_official_files
from gpt1_jax.tasks.task import Example, TaskSplit


def read(directory: Path, task: str, split: TaskSplit = "train") -> list[Example]:
    return read_official_files(find_task(task), directory, split)


def write(directory: Path, **files: str) -> Path:
    """Writes files, named without their dots: train_tsv is train.tsv."""
    for name, text in files.items():
        (directory / ".".join(name.rsplit("_", 1))).write_text(text, encoding="utf-8")
    return directory


# ── GLUE ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cola_has_a_header_in_its_test_file_only(tmp_path: Path) -> None:
    train = 'gj04\t1\t\t"Bill" coughed.\ngj04\t0\t*\tCoughed bill.\n'
    write(tmp_path, train_tsv=train, dev_tsv="x\t1\t\tOh.", test_tsv="index\tsentence\n0\tBill left.\n")
    assert read(tmp_path, "cola") == [Example(('"Bill" coughed.',), 1), Example(("Coughed bill.",), 0)]
    assert read(tmp_path, "cola", "validation") == [Example(("Oh.",), 1)]
    assert read(tmp_path, "cola", "test") == [Example(("Bill left.",), None)]


@pytest.mark.parametrize(
    ("task", "train", "test", "texts", "label"),
    [
        ("sst2", "sentence\tlabel\ngood fun \t1", "index\tsentence\n0\tgood fun", ("good fun",), 1),
        (
            "mrpc",
            '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe said.\t"He says.',
            'index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tHe said.\t"He says.',
            ("He said.", '"He says.'),
            1,
        ),
        (
            "qqp",
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tWhy?\tHow?\t0",
            "id\tquestion1\tquestion2\n0\tWhy?\tHow?",
            ("Why?", "How?"),
            0,
        ),
        (
            "stsb",
            "index\tgenre\tsentence1\tsentence2\tscore\n0\tmain\tA man.\tA boy.\t3.800",
            "index\tgenre\tsentence1\tsentence2\n0\tmain\tA man.\tA boy.",
            ("A man.", "A boy."),
            3.8,
        ),
        (
            "qnli",
            "index\tquestion\tsentence\tlabel\n0\tWho?\tHe did.\tnot_entailment",
            "index\tquestion\tsentence\n0\tWho?\tHe did.",
            ("Who?", "He did."),
            1,
        ),
        (
            "rte",
            "index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tentailment",
            "index\tsentence1\tsentence2\n0\tIt rains.\tIt is wet.",
            ("It rains.", "It is wet."),
            0,
        ),
        (
            "wnli",
            "index\tsentence1\tsentence2\tlabel\n0\tJo hit Al; he fell.\tAl fell.\t1",
            "index\tsentence1\tsentence2\n0\tJo hit Al; he fell.\tAl fell.",
            ("Jo hit Al; he fell.", "Al fell."),
            1,
        ),
    ],
)
def test_glue_is_read_by_the_names_of_its_columns(
    tmp_path: Path, task: str, train: str, test: str, texts: tuple[str, ...], label: float
) -> None:
    write(tmp_path, train_tsv=train, dev_tsv=train, test_tsv=test)
    assert read(tmp_path, task) == read(tmp_path, task, "validation") == [Example(texts, label)]
    assert read(tmp_path, task, "test") == [Example(texts, None)]


def test_mrpc_is_read_as_microsoft_distributes_it_too(tmp_path: Path) -> None:
    table = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\ta\tb\n"
    write(tmp_path, msr_paraphrase_train_txt=table, msr_paraphrase_test_txt=table)
    assert read(tmp_path, "mrpc") == read(tmp_path, "mrpc", "test") == [Example(("a", "b"), 0)]
    assert read(tmp_path, "mrpc", "validation") == []


MNLI = "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n0\tfiction\tp\th\tneutral\t"


def test_mnli_has_two_groups_of_which_the_matched_one_suffices(tmp_path: Path) -> None:
    write(tmp_path, train_tsv=MNLI + "entailment", dev_matched_tsv=MNLI + "neutral")
    assert read(tmp_path, "mnli") == [Example(("p", "h"), 0)]
    assert read(tmp_path, "mnli", "validation") == [Example(("p", "h"), 1, "matched")]
    write(tmp_path, dev_mismatched_tsv=MNLI + "contradiction")
    assert read(tmp_path, "mnli", "validation") == [
        Example(("p", "h"), 1, "matched"),
        Example(("p", "h"), 2, "mismatched"),
    ]
    (tmp_path / "dev_matched.tsv").unlink()
    with pytest.raises(UserError, match=r"has no dev_matched.tsv .*validation part of mnli"):
        read(tmp_path, "mnli", "validation")


def test_mnli_test_files_have_no_labels(tmp_path: Path) -> None:
    table = "index\tsentence1\tsentence2\n0\tp\th\n"
    write(tmp_path, test_matched_tsv=table, test_mismatched_tsv=table)
    groups = [(example.label, example.group) for example in read(tmp_path, "mnli", "test")]
    assert groups == [(None, "matched"), (None, "mismatched")]


def test_diagnostics_are_read_with_their_labels_or_without(tmp_path: Path) -> None:
    """Those with labels are distributed with columns of other names."""
    write(tmp_path, AX_tsv="index\tsentence1\tsentence2\n0\tA cat sat.\tIt sat.\n")
    assert read(tmp_path, "ax", "test") == [Example(("A cat sat.", "It sat."), None)]
    assert read(tmp_path, "ax", "train") == read(tmp_path, "ax", "validation") == []
    full = "Logic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel\nNegation\t\tNews\tA cat sat.\tIt sat.\tneutral\n"
    (tmp_path / "diagnostic-full.tsv").write_text(full)
    assert read(tmp_path, "ax", "validation") == [Example(("A cat sat.", "It sat."), 1)]
    (tmp_path / "AX.tsv").unlink()
    assert read(tmp_path, "ax", "test") == [Example(("A cat sat.", "It sat."), 1)]


def test_the_official_file_comes_before_a_sample_of_it(tmp_path: Path) -> None:
    sample = {"0": {"text_a": "a", "text_b": "b", "label": "not_entailment"}}
    write(tmp_path, ppft_subset_train_json=json.dumps(sample))
    assert read(tmp_path, "qnli") == [Example(("a", "b"), 1)]
    write(tmp_path, train_tsv="index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tentailment\n")
    assert read(tmp_path, "qnli") == [Example(("Who?", "He."), 0)]


# ── Other sets ───────────────────────────────────────────────────────────────────────────────────────────────


def test_snlis_pairs_without_a_gold_label_are_predicted_but_not_learned(tmp_path: Path) -> None:
    pairs = [
        {"gold_label": label, "sentence1": "p", "sentence2": "h", "annotator_labels": ["neutral"]}
        for label in ("-", "contradiction", "-")
    ]
    for split in ("train", "dev", "test"):
        (tmp_path / f"snli_1.0_{split}.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    assert read(tmp_path, "snli") == read(tmp_path, "snli", "validation") == [Example(("p", "h"), 2)]
    assert [example.label for example in read(tmp_path, "snli", "test")] == [None, 2, None]


def test_scitail_is_found_in_its_root_or_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tsv_format"
    folder.mkdir()
    (folder / "scitail_1.0_dev.tsv").write_text('"P" is so.\th\tneutral\np\th\tentails\n')
    expected = [Example(('"P" is so.', "h"), 1), Example(("p", "h"), 0)]
    assert read(tmp_path, "scitail", "validation") == read(folder, "scitail", "validation") == expected


def race(directory: Path, *folders: str) -> Path:
    """A passage of two questions in each folder."""
    for folder in folders:
        (directory / folder).mkdir(parents=True)
        passage = {
            "id": "middle1.txt",
            "article": f"Of {folder}.\nMore.",
            "questions": ["Who is _ ?", "Why?"],
            "options": [["a", "b", "c", "d"], ["e", "f", "g", "h"]],
            "answers": ["D", "A"],
        }
        (directory / folder / "1.txt").write_text(json.dumps(passage))
    return directory


def test_race_is_a_folder_of_passages_for_each_group(tmp_path: Path) -> None:
    race(tmp_path, "train/middle", "train/high", "dev/high", "test/high")
    of_middle, of_high = "Of train/middle.\nMore.", "Of train/high.\nMore."
    assert read(tmp_path, "race") == [
        Example((of_middle, "Who is _ ?", "a", "b", "c", "d"), 3, "middle"),
        Example((of_middle, "Why?", "e", "f", "g", "h"), 0, "middle"),
        Example((of_high, "Who is _ ?", "a", "b", "c", "d"), 3, "high"),
        Example((of_high, "Why?", "e", "f", "g", "h"), 0, "high"),
    ]
    assert read(tmp_path, "race_high") == [e._replace(group="") for e in read(tmp_path, "race")[2:]]
    assert len(read(tmp_path, "race_high", "validation")) == len(read(tmp_path, "race_high", "test")) == 2
    assert read(tmp_path, "race_middle", "validation") == []
    with pytest.raises(UserError, match="has no dev/middle, the validation part of race;"):
        read(tmp_path, "race", "validation")


def test_passages_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = race(tmp_path, "train/middle") / "train/middle"
    passage = json.loads((folder / "1.txt").read_text())
    for name in "80529173":
        (folder / f"{name}.txt").write_text(json.dumps(passage | {"article": name}))
    assert [e.texts[0] for e in read(tmp_path, "race_middle")[::2]] == list("01235789")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answers": ["D", "E"]}, "question 2 of .*1.txt .* 'answer' is 'E', expected one of 'A', 'B'"),
        ({"answers": ["D"]}, "1.txt is not a RACE passage"),
        ({"options": None}, "1.txt is not a RACE passage"),
        ({"options": [["a"], ["b"]]}, "question 1 of .*1.txt .* 1 choice, expected 4"),
        ({"article": None}, "'article' is null"),
    ],
)
def test_a_damaged_passage_is_named(tmp_path: Path, change: dict[str, object], told: str) -> None:
    path = race(tmp_path, "train/middle") / "train/middle/1.txt"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=told):
        read(tmp_path, "race_middle")


def test_story_cloze_trains_on_its_validation_file(tmp_path: Path) -> None:
    header = (
        "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,"
        "RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\n"
    )
    story = 'id,Rick fell.,"He cried, ""Oh"".",He rose.,He left.,All was well.,He won.,2\n'
    texts = ('Rick fell. He cried, "Oh". He rose. He left.', "", "All was well.", "He won.")
    official = tmp_path / "cloze_test_val__spring2016 - cloze_test_ALL_val.csv"
    official.write_text(header + story)
    (tmp_path / "cloze_test_test__spring2016.csv").write_text(header + story.replace(",2\n", ",1\n"))
    assert read(tmp_path, "story_cloze") == [Example(texts, 1)]
    assert read(tmp_path, "story_cloze", "test") == [Example(texts, 0)]
    assert read(tmp_path, "story_cloze", "validation") == []
    official.write_text(header + story.replace(",2\n", ",0\n"))
    with pytest.raises(UserError, match=r"line 2 of .*'AnswerRightEnding' is '0', expected one of '1', '2'"):
        read(tmp_path, "story_cloze")


def test_definite_pronouns_are_blocks_of_four_lines(tmp_path: Path) -> None:
    first, second = "The bee saw it.\nit\nThe bee,the sun\nthe sun\n", "Jo hit Al; he\nhe\nJo , Al\nJo\n"
    (tmp_path / "train.c.txt").write_text(f"{first}\n{second}\n\n")
    assert read(tmp_path, "dprd") == [
        Example(("The bee saw it.", "it", "The bee", "the sun"), 1),
        Example(("Jo hit Al; he", "he", "Jo", "Al"), 0),
    ]
    (tmp_path / "train.c.txt").write_text(f"{first}{second}")
    with pytest.raises(
        UserError, match=r"the block at line 1 of .*train.c.txt is not four lines and an empty"
    ):
        read(tmp_path, "dprd")
    (tmp_path / "train.c.txt").write_text(f"{first}\n{second}".replace("Jo\n", "Joe\n"))
    with pytest.raises(UserError, match=r"the block at line 6 .* 'Joe', expected one of 'Jo', 'Al'"):
        read(tmp_path, "dprd")


# ── Missing and wrong ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("task", LAYOUTS)
def test_a_missing_training_file_is_named_and_other_splits_are_empty(tmp_path: Path, task: str) -> None:
    for file in LAYOUTS[task]["train"]:
        with pytest.raises(UserError, match=f"data.source='files:{tmp_path}' has no .*{file.path}"):
            read(tmp_path, task)
    assert read(tmp_path, task, "validation") == read(tmp_path, task, "test") == []


def test_what_is_wrong_in_a_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, train_tsv="index\tsentence1\tsentence2\tlabel\n0\ta\tb\tmaybe\n")
    with pytest.raises(
        UserError, match=r"line 2 of .*train.tsv is not an example of rte: 'label' is 'maybe'"
    ):
        read(tmp_path, "rte")
    with pytest.raises(UserError, match=r"expected 'question' .*, found 'index', 'sentence1', 'sentence2'"):
        read(tmp_path, "qnli")
    with pytest.raises(
        UserError, match=r"line 1 of .*train.tsv is not an example of cola: 'label' is 'sentence1'"
    ):
        read(tmp_path, "cola")
    write(tmp_path, train_tsv="index\tsentence1\tsentence2\tlabel\n")
    with pytest.raises(UserError, match=r"train.tsv holds no examples of rte"):
        read(tmp_path, "rte")
    write(tmp_path, ppft_subset_train_json='{"0": []}')
    with pytest.raises(UserError, match=r"entry 0 of .*json is \[\], expected a JSON object"):
        read(tmp_path, "snli")


# ── The real sets ────────────────────────────────────────────────────────────────────────────────────────────


@needs_large("tasks")
@pytest.mark.parametrize(
    ("task", "folder", "counts"),
    [
        ("cola", "CoLA", (8551, 1043, 0)),
        ("sst2", "SST-2", (67349, 872, 0)),
        ("mrpc", "MRPC", (3668, 408, 1725)),
        ("stsb", "STS-B", (5749, 1500, 0)),
        ("rte", "RTE", (2490, 277, 3000)),
        ("qnli", "QNLI", (8999, 5463, 5463)),
        ("mnli", "MNLI", (8999, 9815, 0)),
        ("snli", "SNLI", (8999, 9842, 0)),
        ("qqp", "QQP", (23497, 0, 0)),
        ("dprd", "DPR", (1316, 564, 564)),
    ],
)
def test_real_files_are_read_whole(task: str, folder: str, counts: tuple[int, int, int]) -> None:
    directory = LARGE / "tasks" / folder
    splits: tuple[TaskSplit, ...] = ("train", "validation", "test")
    assert tuple(len(read(directory, task, split)) for split in splits) == counts


@pytest.mark.slow
@needs_large("tasks/RACE.tar.xz")
def test_race_is_read_whole(tmp_path: Path) -> None:
    subprocess.run(["bash", LARGE / "unpack", tmp_path, "race"], check=True)
    directory = tmp_path / "tasks" / "RACE"
    assert (len(read(directory, "race")), len(read(directory, "race", "validation"))) == (87866, 4887)
    assert len(read(directory, "race_middle")) + len(read(directory, "race_high")) == 87866


# ── As they come ─────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_mac_hides_in_race_is_no_passage(tmp_path: Path) -> None:
    passage = {"article": "a", "questions": ["q"], "options": [["1", "2", "3", "4"]], "answers": ["A"]}
    folder = tmp_path / "train" / "middle"
    folder.mkdir(parents=True)
    for name in ("1.txt", "2.TXT"):
        (folder / name).write_text(json.dumps(passage))
    (folder / "._1.txt").write_bytes(b"\x00\x05\x16\x07")
    assert len(read_official_files(find_task("race_middle"), tmp_path, "train")) == 2


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_qqps_few_broken_lines_are_left_out_where_they_are_learned_from(
    tmp_path: Path, split: TaskSplit, caplog: pytest.LogCaptureFixture
) -> None:
    """A question with a line break is two short lines; of a test, whose predictions are numbered, none is left out."""
    name = {"train": "train", "validation": "dev", "test": "test"}[split]
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    (tmp_path / f"{name}.tsv").write_text(
        "\n".join(
            [header, "1\t2\t3\twhat?\twho?\t0", "4\t5\t6\twhat", "is?\twho?\t1", "7\t8\t9\twhy?\thow?\t1"]
        )
        + "\n"
    )
    if split == "test":
        with pytest.raises(UserError, match="line 3 of"):
            read_official_files(find_task("qqp"), tmp_path, split)
    else:
        assert [example.texts[0] for example in read_official_files(find_task("qqp"), tmp_path, split)] == [
            "what?",
            "why?",
        ]
        assert "2 lines of" in caplog.text


def test_a_file_may_be_packed_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_bytes(gzip.compress(b"sentence\tlabel\ngood\t1\nbad\t0\n"))
    assert len(read_official_files(find_task("sst2"), tmp_path, "train")) == 2
