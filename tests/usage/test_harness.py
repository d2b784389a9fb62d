"""lm-evaluation-harness runs its own tasks on a run directory, offline, and its numbers are those of `run.score`."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_support import ROOT, WORDS, make_text
from run_support import save_run
from support import tiny_config

import gpt1_jax
from gpt1_jax.data.tokenizers.library_training import train_byte_bpe
from gpt1_jax.usage.measuring import zero_shot
from gpt1_jax.usage.trained import TrainedRun

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is an extra; it is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]

CONTEXT = 24
# Passages of ten words fit the context; the page does not.
PASSAGES = [" ".join(make_text(seed, 10).split()) for seed in range(12)]
PAGE = make_text(20, 90)
REVIEWS = [
    {"sentence": f"{word} {other}", "label": i % 2}
    for i, (word, other) in enumerate(zip(WORDS, WORDS[3:], strict=False))
]
PROMPTS = [{"prompt": f"{PASSAGES[0]} {' '.join(WORDS[:i])}"} for i in range(3)]

# The harness's own tasks on files of ours, and one of ours.
TASKS = {
    "lambada": ("lambada/lambada_openai.yaml", [{"text": passage} for passage in PASSAGES]),
    "wikitext": ("wikitext/wikitext.yaml", [{"page": PAGE}]),
    "sst2": ("glue/sst2/default.yaml", REVIEWS),
}
WRITE = """
output_type: generate_until
test_split: test
doc_to_text: "{{prompt}}"
doc_to_target: " song"
generation_kwargs: {until: [" old", "q"], max_gen_toks: 12}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and a directory of tasks with their data."""
    place = tmp_path_factory.mktemp("harness")
    tokenizer = train_byte_bpe(iter([" ".join(WORDS * 20) + "\n"]), 300)
    settings = {"model.norm": "pre", "model.context_length": CONTEXT, "data.vocab_size": 300}
    save_run(place / "run", tiny_config(**settings, **{"data.tokenizer": "byte_bpe"}), tokenizer, None)
    (place / "tasks").mkdir()
    own = Path(lm_eval.__file__).parent / "tasks"
    for name, (file, rows) in TASKS.items():
        write_task(place, name, rows, f"include: {own / file}\ndataset_name: null\n")
    write_task(place, "write", PROMPTS, WRITE)
    return place


def write_task(place: Path, name: str, rows: list[dict[str, Any]], task: str) -> None:
    data = place / "tasks" / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = json.dumps({split: str(data) for split in ("train", "validation", "test")})
    about = f"task: local_{name}\ndataset_path: json\ndataset_kwargs: {{data_files: {files}}}\n"
    (place / "tasks" / f"local_{name}.yaml").write_text(task + about)


@pytest.fixture(scope="module")
def run(place: Path) -> TrainedRun:
    return gpt1_jax.load(place / "run")


@pytest.fixture(scope="module")
def results(place: Path) -> dict[str, Any]:
    """What the harness's command wrote: the metrics of each task, and its samples."""
    tasks = [*(f"local_{name}" for name in TASKS), "local_write"]
    done = call(
        place, f"run={place / 'run'},step=last", tasks, "--log_samples", f"--output_path={place / 'out'}"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (written,) = place.glob("out/*/results_*.json")
    found: dict[str, Any] = json.loads(written.read_text())
    for task in tasks:
        (samples,) = place.glob(f"out/*/samples_{task}_*.jsonl")
        found["results"][task]["samples"] = [json.loads(line) for line in samples.read_text().splitlines()]
    assert found["config"]["model_step"] == 0
    return found["results"]


def call(place: Path, about: str, tasks: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(place / "home")}
    return subprocess.run(
        [
            sys.executable, "-m", "gpt1_jax.lm_eval", "--model=gpt1_jax", f"--model_args={about}",
            f"--include_path={place / 'tasks'}", f"--tasks={','.join(tasks)}", "--verbosity=ERROR", *flags,
        ],
        cwd=ROOT, env=os.environ | offline | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def test_lambada_has_the_scores_of_our_own(place: Path, run: TrainedRun, results: dict[str, Any]) -> None:
    found = results["local_lambada"]
    rows = [{"context": p.rpartition(" ")[0], "continuation": f" {p.rpartition(' ')[2]}"} for p in PASSAGES]
    scores = run.score(rows)
    assert found["perplexity,none"] == pytest.approx(
        math.exp(-np.mean([score["total"] for score in scores])), rel=1e-4
    )
    assert found["acc,none"] == np.mean([score["greedy"] for score in scores])
    (place / "set").mkdir()
    (place / "set" / "lambada_test_plain_text.txt").write_text("\n".join(PASSAGES) + "\n")
    ours = zero_shot(str(place / "run"), "lambada", f"files:{place / 'set'}", None)
    assert (found["perplexity,none"], found["acc,none"]) == (
        pytest.approx(ours["perplexity"], rel=1e-4),
        pytest.approx(ours["accuracy"]),
    )


def test_choices_are_scored_after_their_questions(run: TrainedRun, results: dict[str, Any]) -> None:
    right = []
    for row, sample in zip(REVIEWS, results["local_sst2"]["samples"], strict=True):
        question = f"{row['sentence']}\nQuestion: Is this sentence positive or negative?\nAnswer:"
        scores = run.score(
            [{"context": question, "continuation": f" {word}"} for word in ("negative", "positive")]
        )
        totals = [score["total"] for score in scores]
        assert [float(answer[0]) for (answer,) in sample["resps"]] == pytest.approx(totals, rel=1e-4)
        right.append(int(np.argmax(totals)) == row["label"])
    assert results["local_sst2"]["acc,none"] == pytest.approx(np.mean(right))


def test_a_page_longer_than_the_context_is_read_in_the_harnesss_windows(
    run: TrainedRun, results: dict[str, Any]
) -> None:
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer  # pyright: ignore
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # pyright: ignore

    ids, end = run.encode(wikitext_detokenizer({"page": PAGE})), run.tokenizer.end_id
    assert end is not None and len(ids) > 3 * CONTEXT and len(ids) % CONTEXT
    total = 0.0
    for window in get_rolling_token_windows(ids, end, CONTEXT, 1):
        given, asked = make_disjoint_window(window)
        logits = run.logits([*given, *asked[:-1]])[len(given) - 1 :].astype(np.float64)
        chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total += chances[np.arange(len(asked)), asked].sum()
    expected = -total / math.log(2) / len(PAGE.encode())
    assert results["local_wikitext"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-4)


def test_a_continuation_ends_before_the_first_of_its_ends_however_long_the_prompt(
    run: TrainedRun, results: dict[str, Any]
) -> None:
    found = [sample["resps"][0][0] for sample in results["local_write"]["samples"]]
    lengths = [len(run.encode(row["prompt"])) for row in PROMPTS]
    assert max(lengths) + 12 > CONTEXT
    for row, text in zip(PROMPTS, found, strict=True):
        stop = [run.tokenizer.end_id]
        settings: Any = {"max_new_tokens": 12, "temperature": 0, "beyond_context": "slide", "stop": stop}
        whole = run.generate(row["prompt"], **settings)["samples"][0]["text"]
        assert text == whole.split(" old")[0].split("q")[0]


def test_answers_are_cached_as_the_harness_caches_them_and_settings_are_known(
    run: TrainedRun, place: Path
) -> None:
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    from gpt1_jax.lm_eval import register

    model: Any = register()(run=str(place / "run"))
    kept = []
    model.cache_hook.add_partial = lambda *entry: kept.append(entry)

    def ask(kind: str, *arguments: Any) -> Instance:
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    answers = model.loglikelihood([ask("loglikelihood", "", "the old"), ask("loglikelihood", "the", " old")])
    assert [(entry[1], entry[2]) for entry in kept] == [
        (("", "the old"), answers[0]),
        (("the", " old"), answers[1]),
    ]
    assert answers[0][0] == pytest.approx(run.score("the old")["total"], rel=1e-5)
    drawn = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 6}
    several = model.generate_until([ask("generate_until", "the", drawn)] * 3, disable_tqdm=True)
    assert len(set(several)) > 1
    with pytest.raises(gpt1_jax.UserError, match="A task sets min_p=1 for its continuations"):
        model.generate_until([ask("generate_until", "the", {"min_p": 1, "until": []})])


def test_a_task_whose_data_are_out_of_reach_is_a_sentence(place: Path) -> None:
    done = call(place, f"run={place / 'run'}", ["lambada_openai"])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: The data of a task are out of reach")


def test_what_is_wrong_with_a_run_is_a_sentence(place: Path) -> None:
    done = call(place, f"run={place / 'nowhere'}", ["local_lambada"])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and "nowhere" in done.stderr
