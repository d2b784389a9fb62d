"""Fine-tuning as a user does it: from a pre-trained run to a score, predictions, and labels for new examples."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_support import Runner, read_metrics

import gpt1_jax
from gpt1_jax.pages.facts import read_facts
from gpt1_jax.run import Run

CUSTOM = {"finetune.kind": "classification"}
WORDS = {"good": "morning light song", "bad": "stone under river"}


@pytest.fixture(scope="module")
def pretrained(runner: Runner) -> Path:
    workdir = runner.directory / "pretrained"
    runner.run(workdir, **{"train.num_steps": 20, "train.checkpoint_every": 10})
    return workdir


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes an easy data set: which of two words a text contains."""
    directory = tmp_path_factory.mktemp("reviews")
    for name, count in (("train", 240), ("validation", 21), ("test", 5)):
        lines = []
        for i in range(count):
            label = ("good", "bad")[i * 7 % 3 % 2]
            text = f"{WORDS[label].split()[i % 3]} again{' the old' * (i % 4)}"
            lines.append({"text": text} | ({} if name == "test" else {"label": label}))
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def finetune(runner: Runner, workdir: Path, start: Path, task: str, **overrides: Any) -> Any:
    values = {
        "init_from": start,
        "data.cache_dir": runner.directory / "cache",
        "train.batch_size": 8,
        "train.log_every": 1,
        "optimizer.learning_rate": 1e-2,
    } | overrides
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    return runner.call("main", f"--config=configs/finetune.py:{task}", f"--workdir={workdir}", *flags)


@pytest.fixture(scope="module")
def finetuned(runner: Runner, pretrained: Path, reviews: Path) -> Path:
    workdir = runner.directory / "finetuned"
    done = finetune(
        runner, workdir, pretrained, "custom",
        **{"finetune.kind": "classification", "data.source": f"files:{reviews}"},
    )  # fmt: skip
    assert done.code == 0, done.stdout + done.stderr
    return workdir


def test_it_ends_with_scores_of_every_epoch_predictions_and_checkpoints(finetuned: Path) -> None:
    results = json.loads((finetuned / "results.json").read_text())
    steps = 3 * 30  # three epochs of 240 examples in batches of 8
    assert (results["kind"], results["task"], results["step"]) == ("finetune", "custom", steps)
    assert results["positive_label"] == "good"
    assert results["validation"]["examples"] == 21 and results["validation"]["accuracy"] > 0.9
    predicted = results["predictions"]
    low, high = predicted.pop("interval")
    assert predicted == results["best"] and low <= predicted["accuracy"] <= high
    evaluated = [entry["step"] for entry in read_metrics(finetuned) if entry["kind"] == "eval"]
    assert evaluated == [30, 60, 90]
    assert {"90", str(results["best"]["step"])} <= {
        path.name for path in (finetuned / "checkpoints").iterdir()
    }
    for split, count in (("validation", 21), ("test", 5)):
        lines = (finetuned / "predictions" / f"{split}.tsv").read_text().splitlines()
        assert lines[0] == "index\tprediction" and len(lines) == 1 + count
        assert {line.split("\t")[1] for line in lines[1:]} <= {"good", "bad"}
    facts = read_facts(Run(str(finetuned)))
    low, high = facts.results["predictions"]["interval"]
    assert f"({low:.3g} to {high:.3g})" in (finetuned / "report.html").read_text()
    judged = facts.judged
    assert judged is not None and sum(count for _, _, count in judged.counts) == 21
    first = read_metrics(finetuned)[0]
    assert first["loss"] == pytest.approx(first["task_loss"] + 0.5 * first["lm_loss"], rel=1e-5)


def test_evaluate_gives_the_score_again_and_the_perplexity_of_a_text(
    runner: Runner, finetuned: Path, reviews: Path
) -> None:
    done = runner.call("evaluate", f"--workdir={finetuned}")
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    results = json.loads((finetuned / "results.json").read_text())
    assert found == results["best"]
    done = runner.call("evaluate", f"--workdir={finetuned}", "--step=last")
    assert json.loads(done.stdout) == {"step": 90, **results["validation"]}
    done = runner.call("evaluate", f"--workdir={finetuned}", f"--source={runner.source}")
    assert done.code == 0 and json.loads(done.stdout)["perplexity"] > 1, done.stderr


def test_a_prompt_is_completed_as_it_was_learned(runner: Runner, pretrained: Path, tmp_path: Path) -> None:
    """By training, predict and evaluate alike; each word has its own successor."""
    words = [word for words in WORDS.values() for word in words.split()]
    for name, count in (("train", 160), ("validation", 12)):
        rows = [{"prompt": f"the {words[i % 6]}", "completion": words[(i + 1) % 6]} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"finetune.kind": "completion", "data.source": f"files:{tmp_path}", "train.num_epochs": 4}
    done = finetune(runner, tmp_path / "run", pretrained, "custom", **values)
    assert done.code == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["validation"]["exact_match"] > 0.9, results
    done = runner.call("evaluate", f"--workdir={tmp_path / 'run'}")
    assert json.loads(done.stdout) == results["best"], done.stderr
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": f"the {words[2]}"}) + "\n")
    flags = [f"--workdir={tmp_path / 'run'}", f"--input={tmp_path / 'in.jsonl'}"]
    done = runner.call("predict", *flags, f"--output={tmp_path / 'out.jsonl'}")
    assert done.code == 0, done.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"completion": words[3]}


def test_evaluate_scores_all_rows_of_a_file_that_lacks_a_class(
    runner: Runner, finetuned: Path, reviews: Path
) -> None:
    rows = [json.loads(line) for line in (reviews / "train.jsonl").read_text().splitlines()]
    bad = [row for row in rows if row["label"] == "bad"]
    file = runner.directory / "bad.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in bad) + "\n")
    done = runner.call("evaluate", f"--workdir={finetuned}", f"--source=files:{file}")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["examples"] == len(bad)
    assert "f1 is that of the class 'good'" in done.stderr
    assert "all scored examples have the label 'bad'" in done.stderr


def test_predict_labels_each_line_in_order_and_python_says_the_same(
    runner: Runner, finetuned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["song again the old", "under again", "the", "light light", "river again"]
    given, written = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text("".join(json.dumps({"text": text, "id": 3}) + "\n" for text in texts) + "\n \n")
    flags = [f"--workdir={finetuned}", f"--input={given}", f"--output={written}"]
    done = runner.call("predict", *flags)
    assert done.code == 0, done.stderr
    found = [json.loads(line) for line in written.read_text().splitlines()]
    assert [entry["label"] for entry in found[:2]] == ["good", "bad"] and len(found) == len(texts)
    assert done.stderr == f"labeled {len(texts)} examples: {written}\n"
    for entry in found:
        assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert all(value == float(f"{value:.6g}") for value in entry["probabilities"].values())
        assert max(entry["probabilities"], key=entry["probabilities"].get) == entry["label"]

    # A table says the same.
    table, same = tmp_path / "in.csv", tmp_path / "same.jsonl"
    table.write_text("id,text\n" + "".join(f'3,"{text}"\n' for text in texts))
    done = runner.call("predict", flags[0], f"--input={table}", f"--output={same}")
    assert (done.code, same.read_text()) == (0, written.read_text()), done.stderr
    table.write_text('id,text\n3,"no end\n')
    done = runner.call("predict", flags[0], f"--input={table}", f"--output={same}")
    assert done.code == 2 and f"--input: line 2 of {table} is not CSV" in done.stderr

    given.write_text(given.read_text().rstrip() + '\n{"txt": "no such field"}\n')
    written.unlink()
    done = runner.call("predict", *flags)
    assert done.code == 2 and "Line 6" in done.stderr and done.stderr.count("\n") == 1
    assert not written.exists()

    run = gpt1_jax.load(str(finetuned))
    for text, entry in zip(texts, found, strict=True):
        (prediction,) = run.predict([{"text": text}])
        assert prediction["label"] == entry["label"]
        assert prediction["probabilities"] == pytest.approx(entry["probabilities"], abs=1e-5)
    with caplog.at_level("WARNING"):
        run.predict([{"text": "again " * 40}, {"text": "again"}])
    assert "longer than the context of 16 tokens, so cut: 1 of 2 examples" in caplog.text
    ids = run.encode("the old song")
    assert run.decode(ids) == "the old song"
    assert run.logits(ids).shape == (len(ids), run.tokenizer.vocab_size)


def test_a_run_that_goes_on_repeats_the_very_losses_of_an_undisturbed_one(
    runner: Runner, pretrained: Path, reviews: Path, finetuned: Path, tmp_path: Path
) -> None:
    """The run ended after its first epoch, and was continued."""
    settings = {
        "finetune.kind": "classification",
        "data.source": f"files:{reviews}",
        "optimizer.total_steps": 90,
    }
    assert finetune(runner, tmp_path, pretrained, "custom", **settings, **{"train.num_epochs": 1}).code == 0
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    validation = reviews / "validation.jsonl"
    lines = validation.read_text().splitlines(keepends=True)
    validation.write_text("".join(lines[1:]))
    done = finetune(runner, tmp_path, pretrained, "custom", **settings)
    validation.write_text("".join(lines))
    assert done.code == 2 and "does not have the validation part" in done.stderr, done.stderr
    assert finetune(runner, tmp_path, pretrained, "custom", **settings).code == 0

    def losses(workdir: Path) -> list[float]:
        return [entry["loss"] for entry in read_metrics(workdir) if entry["kind"] == "train"]

    assert losses(tmp_path) == losses(finetuned)


@pytest.mark.slow
def test_a_run_of_earlier_days_goes_on_with_its_split_and_its_classes(
    runner: Runner, pretrained: Path, tmp_path: Path
) -> None:
    """A run by the old rule, without what its files did not name then, goes on unchanged."""
    file = tmp_path / "mine.jsonl"
    rows = [{"text": WORDS[("good", "bad")[n % 2]].split()[n % 3], "label": n % 2 == 0} for n in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = CUSTOM | {"data.source": f"files:{file}", "optimizer.total_steps": 10}
    runs = {name: tmp_path / name for name in ("undisturbed", "early")}
    old_rule = {"data.split_seed": -1}
    finetune(
        runner, runs["undisturbed"], pretrained, "custom", **settings, **old_rule, **{"train.num_epochs": 2}
    )
    finetune(runner, runs["early"], pretrained, "custom", **settings, **old_rule, **{"train.num_epochs": 1})
    for name, keys in {
        "config.json": [("data", "split_seed"), ("finetune", "positive_label")],
        "task.json": [("positive_label",)],
    }.items():
        path = runs["early"] / name
        values = json.loads(path.read_text())
        for *sections, key in keys:
            del (values[sections[0]] if sections else values)[key]
        path.write_text(json.dumps(values))
    (runs["early"] / "history.json").unlink()
    done = finetune(runner, runs["early"], pretrained, "custom", **settings, **{"train.num_epochs": 2})
    assert done.code == 0, done.stderr
    one, other = (
        [entry.get("loss", entry.get("accuracy")) for entry in read_metrics(run)] for run in runs.values()
    )
    assert one == other and len(one) == 12
    assert len({(run / "predictions" / "validation.tsv").read_text() for run in runs.values()}) == 1


def test_zero_shot_over_the_checkpoints_is_told_and_drawn(runner: Runner, pretrained: Path) -> None:
    flags = [f"--workdir={pretrained}", "--zero_shot=demo_next_verse", "--steps=all"]
    done = runner.call("evaluate", *flags)
    assert done.code == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["step"] for entry in found] == [10, 20]
    assert all(0 < entry["accuracy"] < 1 for entry in found)
    kept = (pretrained / "zero_shot-demo_next_verse.jsonl").read_text().splitlines()
    assert len(kept) > 1 and all("accuracy" in json.loads(line) for line in kept)
    assert (pretrained / "zero_shot-demo_next_verse.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("task", "overrides", "told"),
    [
        ("colla", {}, "did you mean cola"),
        ("custom", CUSTOM | {"finetune.columns": "text=review"}, "'review'"),
        ("custom", CUSTOM | {"model.num_layers": 3}, "model.num_layers=1, this config has 3"),
        ("custom", CUSTOM | {"finetune.num_transfer_layers": 2}, "finetune.num_transfer_layers=2"),
        ("custom", CUSTOM | {"init_from": "nowhere"}, "nowhere is not a run directory"),
        ("custom", {}, "finetune.kind"),
        ("rte", {}, "train.tsv"),
        ("dprd", {}, "zero-shot only"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(
    runner: Runner,
    pretrained: Path,
    reviews: Path,
    tmp_path: Path,
    task: str,
    overrides: dict[str, Any],
    told: str,
) -> None:
    workdir = tmp_path / "run"
    done = finetune(runner, workdir, pretrained, task, **{"data.source": f"files:{reviews}"} | overrides)
    assert done.code == 2, done.stdout + done.stderr
    assert told in done.stderr and done.stderr.count("\n") == 1 and not (workdir / "config.json").exists()


def test_another_tokenizer_is_refused(
    runner: Runner, pretrained: Path, reviews: Path, tmp_path: Path
) -> None:
    other = runner.directory / "other"
    runner.run(other, **{"train.num_steps": 1, "data.vocab_size": 310})
    model = other / "tokenizer" / "sentencepiece.model"
    overrides = CUSTOM | {"data.source": f"files:{reviews}", "data.tokenizer": f"sentencepiece:{model}"}
    done = finetune(runner, tmp_path / "run", pretrained, "custom", **overrides)
    assert done.code == 2 and "--config.data.tokenizer=sentencepiece:" in done.stderr
    assert "to read with that run's own" in done.stderr and not (tmp_path / "run").exists()
