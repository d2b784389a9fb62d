"""A run as one HTML file that needs nothing beside it, and several runs side by side.

Every text that comes from a run is escaped: a page runs no script and loads nothing, whatever a sample or a label says.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from html import escape
from types import MappingProxyType
from typing import Any, get_args

from etils import epath

from gpt1_jax.config import Config, schema
from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.overrides import flatten, to_dict
from gpt1_jax.pages.charts import Level, Series, chart, confusion, number, table
from gpt1_jax.pages.document import make_document
from gpt1_jax.pages.facts import KEPT_BEGIN, KEPT_END, MASKED, PAGE, Facts, read_facts
from gpt1_jax.pages.judged import Judged, Mistake
from gpt1_jax.pages.paper import SCORES
from gpt1_jax.pages.structure import draw_structure
from gpt1_jax.run import Run
from gpt1_jax.tasks.task import Metric
from gpt1_jax.wording import counted

# The curves in their order: the title, and the metrics of which one is drawn, solid or dashed.
CURVES: tuple[tuple[str, tuple[tuple[str, bool], ...]], ...] = (
    ("Loss (nats a token, or of the task)", (("loss", False), ("validation loss", True))),
    ("Language-model loss beside the task's", (("lm_loss", False),)),
    ("Perplexity of the held-out text", (("validation perplexity", True),)),
    ("Perplexity of the hidden pieces of the held-out text", ((f"validation {MASKED}", True),)),
    ("Bits per byte of the held-out text", (("validation bits_per_byte", True),)),
    ("Learning rate", (("learning_rate", False),)),
    ("Norm of the gradient", (("grad_norm", False),)),
    ("Tokens per second", (("tokens_per_second", False),)),
    ("Model FLOPs utilization", (("mfu", False),)),
    ("Memory (GB)", (("memory_gb", False),)),
)
_SCORES = get_args(Metric)
_PERPLEXITY = 18.4
# What differs from one machine to the next, and says nothing about a run.
_PLACES = ("data.cache_dir", "data.tfds_dir")
_SAMPLES = 40


def write_page(
    run: Run, judged: Judged | None = None, samples: Mapping[int, str] = MappingProxyType({})
) -> epath.Path:
    """Writes the page of a run into its directory, whole; returns where it is.

    Args:
        run: the run directory.
        judged: as in `read_facts`.
        samples: step → sample, of those that TensorBoard's files may not have yet.
    """
    path, facts = run.directory / PAGE, read_facts(run, judged)
    facts = dataclasses.replace(facts, samples=sorted({**dict(facts.samples), **samples}.items()))
    write_whole(path, make_page([facts]))
    return path


def make_page(runs: Sequence[Facts]) -> str:
    """Returns the HTML of one run, or of several side by side."""
    one = runs[0] if len(runs) == 1 else None
    # A title needs the name of a run only beside other runs.
    behind = [""] if one else [f": {name}" for name in _short(runs)]
    title = f"{_short(runs)[0]} · gpt1_jax" if one else f"{counted(len(runs), 'run')} · gpt1_jax"
    parts = [
        f"<header><h1>{escape(runs[0].name if one else 'Runs side by side')}</h1>",
        *(f"<p>{escape(sentence)}</p>" for sentence in ([_summary(one)] if one else [])),
        "</header><main>",
        _section("Scores", _scores(runs)),
        _section("Curves", f'<div class="grid">{_charts(runs)}</div>'),
        *(_judged(facts, name) for facts, name in zip(runs, behind, strict=True)),
        *(_samples(facts, name) for facts, name in zip(runs, behind, strict=True)),
        _section("What differs from the paper's setting" if one else "What differs", _differences(runs)),
        *(_structure(facts, name) for facts, name in zip(runs, behind, strict=True)),
        "</main>",
    ]
    kept = ""
    if one and one.judged:
        # No text may end the block.
        content = json.dumps(one.judged.to_json()).replace("<", "\\u003c")
        kept = f"{KEPT_BEGIN}{content}{KEPT_END}"
    return make_document(title, "".join(parts) + kept)


def describe_score(facts: Facts) -> str:
    """Returns a run's best score in a few words, with its step if others followed: "accuracy 0.913 at step 90"."""
    best, name = facts.results.get("best") or {}, facts.score
    if not isinstance(best.get(name), int | float):
        return "no evaluation yet"
    further = best.get("bits_per_byte")
    masked = "" if facts.config.model.causal or facts.config.finetune else "masked "
    told = f"{masked}{_words(name)} {best[name]:.4g}" + (f", {further:.4g} bits per byte" if further else "")
    return told if best.get("step") == facts.step else f"{told} at step {best.get('step')}"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _short(runs: Sequence[Facts]) -> list[str]:
    """Returns short names of the runs that are all different."""
    last = [facts.name.rstrip("/").rpartition("/")[2] for facts in runs]
    return last if len(set(last)) == len(last) else [facts.name for facts in runs]


def _summary(facts: Facts) -> str:
    model, settings = facts.config.model, facts.config.finetune
    if model.kind == "lstm":
        network = f"an LSTM of {model.d_ff:,} units"
    else:
        kind = "decoder" if model.causal else "encoder"
        network = (
            f"a {kind} of {counted(model.num_layers, 'layer')}, {model.d_model:,} wide, with "
            f"{counted(model.num_heads, 'head')} and {counted(model.context_length, 'position')}"
        )
    what = (
        "Pre-training"
        if settings is None
        else f"Fine-tuning on {settings.task} from {facts.config.init_from}"
    )
    steps = f"step {facts.step:,} of {facts.config.train.num_steps:,}" if facts.config.train.num_steps else ""
    return f"{what} on {facts.config.data.source}: {network}; {steps or f'step {facts.step:,}'}."


def _scores(runs: Sequence[Facts]) -> str:
    names: list[str] = []
    for facts in runs:
        for part in ("predictions", "best", "validation"):
            found = facts.results.get(part) or {}
            names += [n for n, x in found.items() if isinstance(x, int | float) and n not in (*names, "step")]
    rows = []
    for facts, short in zip(runs, _short(runs), strict=True):
        told = set()
        for part, said in (("predictions", "predictions"), ("best", "best"), ("validation", "last")):
            values = facts.results.get(part) or {}
            step = values.get("step", facts.results.get("step"))
            if values and step not in told:
                told.add(step)
                cells = [_cell(values, name, facts.score) for name in names]
                rows.append(
                    [f"{short}, {said}, step {step}" if len(runs) > 1 else f"{said}, step {step}", *cells]
                )
        rows += [
            [f"the paper's, {task}", *(f"{score:.3g}" if name == metric else "" for name in names)]
            for task, (metric, score) in _paper(facts).items()
        ]
        if facts.judged and facts.judged.counts and "accuracy" in names:
            most, total = _majority(facts.judged)
            share = most / total
            rows.append(
                [
                    "always the most frequent label",
                    *(f"{share:.4g}" if n == "accuracy" else "" for n in names),
                ]
            )
    unique = [row for number_, row in enumerate(rows) if row not in rows[:number_]]
    return table(["", *map(_words, names)], unique) if unique else "<p>No evaluation yet.</p>"


def _words(metric: str) -> str:
    """Returns the name of a metric as a reader knows it: "bits per byte"."""
    return metric.replace("_", " ")


def _paper(facts: Facts) -> dict[str, tuple[str, float]]:
    settings = facts.config.finetune
    if settings is None:
        whole = facts.config.model == Config().model
        return {"pre-training on BooksCorpus": ("perplexity", _PERPLEXITY)} if whole else {}
    return {settings.task: SCORES[settings.task]} if settings.task in SCORES else {}


def _cell(values: Mapping[str, Any], name: str, score: str) -> str:
    value, interval = values.get(name), values.get("interval")
    if not isinstance(value, int | float):
        return ""
    if name == score and isinstance(interval, list | tuple) and len(interval) == 2:
        return f"{value:.4g} ({interval[0]:.3g} to {interval[1]:.3g})"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _majority(judged: Judged) -> tuple[int, int]:
    labels: dict[str, int] = {}
    for label, _, count in judged.counts:
        labels[label] = labels.get(label, 0) + count
    return max(labels.values()), sum(labels.values())


def _charts(runs: Sequence[Facts]) -> str:
    shorts = _short(runs)
    wanted = [*CURVES, *((_words(name), ((f"validation {name}", True),)) for name in _SCORES)]
    measured = sorted({name for facts in runs for name in facts.curves if name.startswith("zero-shot ")})
    wanted += [(_words(name), ((name, False),)) for name in measured if not name.endswith(" examples")]
    figures = []
    for title, metrics in wanted:
        series = [
            Series(
                f"{short} {_words(name)}" if len(runs) > 1 else _words(name),
                place if len(runs) > 1 else hue,
                points,
                dashed,
            )
            for place, (facts, short) in enumerate(zip(runs, shorts, strict=True))
            for hue, (name, dashed) in enumerate(metrics)
            if (points := facts.curves.get(name, ()))
        ]
        lines = []
        for facts in runs:
            for metric, score in _paper(facts).values():
                if metrics == ((f"validation {metric}", True),) and Level("the paper's", score) not in lines:
                    lines.append(Level("the paper's", score))
        figures.append(chart(title, series, lines))
    return "".join(figures)


def _judged(facts: Facts, name: str) -> str:
    judged = facts.judged
    if judged is None:
        return ""
    title = f"Predictions of step {judged.step:,}{name}"
    if judged.points:
        shown = chart(
            "Labels (across) and predictions (up)", [Series("examples", 0, judged.points)], scatter=True
        )
        shown = f'<div class="grid">{shown}</div>'
    else:
        shown = confusion(judged.counts) if judged.counts else ""
    worst = "".join(map(_mistake, judged.mistakes))
    return _section(title, shown) + _section(f"The most wrong answers{name}", worst)


def _mistake(mistake: Mistake) -> str:
    texts = "".join(f"<pre>{escape(text)}</pre>" for text in mistake.texts)
    said = f"says {mistake.predicted}"
    if mistake.probability is not None:
        said += f" with probability {mistake.probability:.3g}"
    right = f"; right is {mistake.label}" + (
        f", to which it gives {mistake.right:.3g}" if mistake.right is not None else ""
    )
    return f'<div class="card">{texts}<p class="soft">{escape(said + right)}</p></div>'


def _samples(facts: Facts, name: str) -> str:
    size = -(-len(facts.samples) // _SAMPLES) or 1
    # The newest is always among them.
    shown = list(reversed(facts.samples))[::size]
    cards = [
        f'<div class="card"><p class="soft">step {step:,}</p><pre>{escape(text)}</pre></div>'
        for step, text in shown
    ]
    if not cards:
        return ""
    older = f"<details><summary>Earlier samples</summary>{''.join(cards[1:])}</details>" if cards[1:] else ""
    return _section(f"Samples{name}", cards[0] + older)


def _differences(runs: Sequence[Facts]) -> str:
    """Returns the table of keys in which runs differ from the schema's defaults, the paper's, or from each other."""
    keys = schema()
    defaults = flatten(to_dict(Config()))
    rows = []
    for name in dict.fromkeys(name for facts in runs for name in facts.values):
        values = [facts.values.get(name) for facts in runs]
        default = defaults.get(name, keys[name].default if name in keys else None)
        differs = values[0] != default if len(runs) == 1 else any(value != values[0] for value in values)
        if differs and name not in _PLACES:
            help = keys[name].help if name in keys else ""
            rows.append([name, *map(_spell, values), _spell(default), help])
    if not rows:
        return "<p>Nothing.</p>"
    return table(
        ["key", *(_short(runs) if len(runs) > 1 else ["here"]), "default", "what it is"], rows, kind="keys"
    )


def _spell(value: Any) -> str:
    return number(value) if isinstance(value, float) else "" if value in (None, MISSING) else str(value)


def _structure(facts: Facts, name: str) -> str:
    picture = draw_structure(facts.config.model, facts.config.data.vocab_size)
    return _section(f"The model{name}", f'<div class="model"><figure>{picture}</figure></div>')
