"""Heads of fine-tuned GPT-2s and BERTs: transformers' classes give the run's logits, on the run's own inputs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from interop_support import MODELS, make_run, params_of, refused, sentencepiece
from support import use_mesh

import gpt1_jax
from gpt1_jax.config import FinetuneConfig
from gpt1_jax.data.tokenizers.huggingface import BERT_PIECES, UNKNOWN, HuggingFaceTokenizer
from gpt1_jax.interop.conversion import convert
from gpt1_jax.interop.families import GPT1, GPT2
from gpt1_jax.interop.family import Family
from gpt1_jax.interop.head_forms import why_not
from gpt1_jax.interop.huggingface import read_huggingface, write_huggingface
from gpt1_jax.interop.published import LanguageModel, TaskHead
from gpt1_jax.interop.run_directory import read_run
from gpt1_jax.model.specials import SPECIALS
from gpt1_jax.tasks.batches import TaskBatch, assemble
from gpt1_jax.tasks.classifier import make_classifier
from gpt1_jax.tasks.encoding import encode_examples, head_outputs
from gpt1_jax.tasks.task import Example, Task

torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
pytestmark = pytest.mark.usefixtures("quick_compilation")

C = 24
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "##s", "##ing"]
TASKS = {
    "classification": Task("cola", "classification", ("accuracy",), labels=("bad", "good")),
    "entailment": Task("mnli", "entailment", ("accuracy",), labels=("yes", "perhaps", "no")),
    "similarity": Task("qqp", "similarity", ("accuracy",), labels=("other", "same")),
    "scores": Task("stsb", "similarity", ("pearson",), score_range=(1, 4)),
    "choice": Task("race", "choice", ("accuracy",), choices=3),
    "tagging": Task("names", "tagging", ("f1",), labels=("B-PER", "I-PER", "O")),
    "span": Task("squad", "span", ("exact_match",)),
    "completion": Task("titles", "completion", ("rouge1",)),
}
PAIRS = [("the foxs", "a dog"), ("the quick brown fox jumps", "a lazy doging dog"), ("the", "a")]
EXAMPLES: dict[str, list[tuple[str, ...]]] = {
    "classification": [(first,) for first, _ in PAIRS],
    "choice": [(*pair, "the fox", "a dogs", "over") for pair in PAIRS],
    "tagging": [tuple(first.split()) for first, _ in PAIRS],
    "completion": [(first,) for first, _ in PAIRS],
}


def make_tokenizer(family: str) -> Any:
    """GPT-2's could be any; a BERT's has the pieces of its frame, here not with the usual ids."""
    if family == "gpt2":
        return sentencepiece()
    pieces = [*BERT_PIECES[:3], UNKNOWN, BERT_PIECES[3], *WORDS]
    return HuggingFaceTokenizer({"vocab.txt": "".join(f"{piece}\n" for piece in pieces).encode()})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each family, fine-tuned on entailment."""
    directory = tmp_path_factory.mktemp("runs")
    settings: dict[str, Any] = {"model.context_length": C, "finetune.classifier_dropout": 0.25}
    for family, values in MODELS.items():
        make_run(directory / family, make_tokenizer(family), TASKS["entailment"], **values | settings)
    return {family: directory / family for family in MODELS}


@pytest.fixture(scope="module")
def models(runs: dict[str, Path]) -> dict[str, LanguageModel]:
    return {family: read_run(str(run)) for family, run in runs.items()}


@pytest.fixture(scope="module")
def trunks(runs: dict[str, Path]) -> dict[str, Any]:
    """The parameters of each family's run, but those of its head."""
    return {family: params_of(run)["trunk"] for family, run in runs.items()}


def with_head(model: LanguageModel, task: Task, outputs: int) -> LanguageModel:
    """The same language model with another head."""
    assert model.head is not None
    generator = np.random.default_rng(1)
    kernel = generator.normal(0, 0.5, (model.config.d_model, outputs)).astype(np.float32)
    bias = generator.normal(0, 0.5, outputs).astype(np.float32)
    return dataclasses.replace(model, head=TaskHead(task, model.head.specials, kernel, bias, 0.25))


def inputs(batch: TaskBatch, lengths: np.ndarray, padding: int) -> dict[str, np.ndarray]:
    """What transformers is given for a batch: int64 [B, S, T] each; `lengths` are those of the sequences [B, S]."""
    inside = np.arange(batch.tokens.shape[-1]) < lengths[..., None]
    given = {"input_ids": np.where(inside, batch.tokens, padding), "attention_mask": inside.astype(int)}
    if batch.types is not None:
        given["token_type_ids"] = batch.types.astype(int)
    return given


@pytest.mark.parametrize(
    ("family", "name", "architecture"),
    [
        pytest.param("bert", "classification", "BertForSequenceClassification", marks=pytest.mark.slow),
        ("bert", "similarity", "BertForSequenceClassification"),
        pytest.param("bert", "choice", "BertForMultipleChoice", marks=pytest.mark.slow),
        ("bert", "tagging", "BertForTokenClassification"),
        ("bert", "span", "BertForQuestionAnswering"),
        ("gpt2", "entailment", "GPT2ForSequenceClassification"),
        ("gpt2", "choice", "GPT2DoubleHeadsModel"),
        ("gpt2", "tagging", "GPT2ForTokenClassification"),
        pytest.param("gpt2", "span", "GPT2ForQuestionAnswering", marks=pytest.mark.slow),
        pytest.param("gpt2", "completion", "GPT2LMHeadModel", marks=pytest.mark.slow),
    ],
)
def test_transformers_class_gives_our_logits(
    family: str,
    name: str,
    architecture: str,
    models: dict[str, LanguageModel],
    trunks: dict[str, Any],
    tmp_path: Path,
) -> None:
    """At every place that the run reads; the files come back as the same model and head."""
    task, tokenizer, trunk = TASKS[name], make_tokenizer(family), trunks[family]
    outputs = 1 if name == "choice" else 0 if name == "completion" else head_outputs(task, "classes")
    model, told = with_head(models[family], task, outputs), []
    assert model.head is not None
    write_huggingface(model, tmp_path, told.append)
    assert f"{architecture} reads " in told[0]
    theirs, loaded = getattr(transformers, architecture).from_pretrained(tmp_path, output_loading_info=True)
    # The classes of BERT have no place for the output of the language model, and not all have one for its pooler.
    assert not loaded["missing_keys"] and not loaded["mismatched_keys"], loaded
    assert all("cls." in key or "pooler" in key for key in loaded["unexpected_keys"]), loaded
    assert theirs.config.architectures == [architecture]

    examples = [Example(texts, None) for texts in EXAMPLES.get(name, PAIRS)]
    encoded = encode_examples(task, examples, tokenizer, C, "classes", model.config.causal)
    batch = assemble(encoded, np.arange(len(encoded)), len(encoded), C, np.arange(len(encoded)))
    lengths = np.diff(encoded.offsets).reshape(len(encoded), -1)
    assert len(set(lengths.ravel())) > 2
    classifier = make_classifier(model.config, FinetuneConfig(task.name), task, tokenizer.vocab_size)
    params = {"trunk": trunk, "head": {"kernel": model.head.kernel, "bias": model.head.bias}}
    with use_mesh():
        logits, hidden = jax.jit(
            lambda params: classifier.apply({"params": params}, batch.tokens, None, batch.types, batch.groups)
        )(params)

    given = inputs(batch, lengths, theirs.config.pad_token_id)
    if name == "choice" and model.config.causal:
        given["mc_token_ids"] = lengths - 1
    elif name != "choice":
        given = {key: array[:, 0] for key, array in given.items()}
    with torch.no_grad():
        found = theirs.eval()(**{key: torch.from_numpy(array) for key, array in given.items()})
    real = np.arange(C) < lengths[:, :1]
    if name == "span":
        pairs = [(logits[:, 0], found.start_logits), (logits[:, 1], found.end_logits)]
        pairs = [(ours[real], other.numpy()[real]) for ours, other in pairs]
    elif name == "tagging":
        pairs = [(logits[real], found.logits.numpy()[real])]
    elif name == "completion":
        table = trunk["tokens"][: tokenizer.vocab_size + SPECIALS]
        pairs = [(hidden[real] @ table.T, found.logits.numpy()[real])]
    else:
        pairs = [(logits[:, 0], (found.mc_logits if "mc_logits" in found else found.logits).numpy())]
    for ours, other in pairs:
        assert ours.shape == other.shape and np.abs(ours).max() > 0.5
        np.testing.assert_allclose(other, ours, rtol=0, atol=1e-5 * max(1, np.abs(ours).max()))

    again = read_huggingface(tmp_path, told.append)
    for key, array in again.weights.items():
        expected = model.weights[key]
        np.testing.assert_array_equal(array[: len(expected)], expected, err_msg=key)
    assert again.head is not None and again.head.task == task and again.head.dropout_rate == 0.25
    for part in ("specials", "kernel", "bias"):
        np.testing.assert_array_equal(getattr(again.head, part), getattr(model.head, part), err_msg=part)
    assert again.rows == model.rows + (0 if family == "bert" else SPECIALS)


def test_a_fine_tuned_bert_is_converted_there_and_back(
    runs: dict[str, Path],
    models: dict[str, LanguageModel],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """AutoTokenizer and the class alone give the run's logits; the run returns bit by bit."""
    convert("gpt1_jax", "huggingface", str(runs["bert"]), str(tmp_path / "hub"))
    said = capsys.readouterr().out
    assert "reads [CLS] premise [SEP] hypothesis [SEP], where [CLS] = 0, [SEP] = 1" in said
    assert "left out" not in said and "<s>" not in said
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "hub")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hub").eval()
    first, second = (list(texts) for texts in zip(*PAIRS, strict=True))
    with torch.no_grad():
        found = model(**auto(first, second, padding=True, return_tensors="pt")).logits.numpy()
    ours = gpt1_jax.load(str(runs["bert"])).predict_logits([Example(texts, None) for texts in PAIRS])
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-5)
    assert model.config.id2label == {0: "yes", 1: "perhaps", 2: "no"}
    assert model.config.label2id == {"yes": 0, "perhaps": 1, "no": 2}
    assert model.config.pad_token_id == auto.pad_token_id == 4 and model.dropout.p == 0.25

    convert("huggingface", "gpt1_jax", str(tmp_path / "hub"), str(tmp_path / "back"))
    assert "left out" not in capsys.readouterr().out
    assert gpt1_jax.load(str(tmp_path / "back")).task == TASKS["entailment"]
    expected = params_of(runs["bert"])
    # A BERT's texts have no special tokens of ours, whose rows say nothing.
    for name in ("tokens", "output_bias"):
        array = expected["trunk"][name].copy()
        array[make_tokenizer("bert").vocab_size :] = 0
        expected["trunk"][name] = array
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "back"), expected)


@pytest.mark.parametrize(
    ("family", "name", "outputs", "expected"),
    [
        ("bert", "tagging", 3, {"id2label": {"0": "B-PER", "1": "I-PER", "2": "O"}, "num_labels": 3}),
        ("bert", "scores", 4, {"id2label": {"0": "1", "1": "2", "2": "3", "3": "4"}}),
        ("bert", "scores", 1, {"problem_type": "regression", "num_labels": 1}),
        (
            "gpt2",
            "tagging",
            3,
            {"id2label": {"0": "B-PER", "1": "I-PER", "2": "O"}, "classifier_dropout": 0.25},
        ),
        ("gpt2", "choice", 1, {"summary_first_dropout": 0.25}),
    ],
)
def test_config_json_says_what_the_outputs_are(
    family: str,
    name: str,
    outputs: int,
    expected: dict[str, Any],
    models: dict[str, LanguageModel],
    tmp_path: Path,
) -> None:
    write_huggingface(with_head(models[family], TASKS[name], outputs), tmp_path, lambda line: None)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values | expected == values


@pytest.mark.parametrize(
    ("kind", "family", "reason"),
    [
        ("similarity", GPT2, "reads the sum of two states, one for each order of the texts"),
        ("tagging", GPT1, "transformers has no class of a GPT-1 for tagging"),
        ("span", GPT1, "transformers has no class of a GPT-1 for span"),
    ],
)
def test_a_head_that_no_class_has_is_told(kind: str, family: Family, reason: str) -> None:
    assert reason in str(why_not(family, TASKS[kind]))


def test_a_prompt_stands_between_its_specials(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    """AutoTokenizer ends it with the delimiter, after which the model writes the completion."""
    write_huggingface(with_head(models["gpt2"], TASKS["completion"], 0), tmp_path, lambda line: None)
    ids, rows = sentencepiece().encode("the fox"), sentencepiece().vocab_size
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert auto("the fox")["input_ids"] == [rows, *ids, rows + 1]
    assert transformers.AutoConfig.from_pretrained(tmp_path).eos_token_id == rows + 2


@pytest.mark.slow
@pytest.mark.parametrize("target", ["huggingface", "gpt1_jax"])
def test_a_run_of_completions_has_specials_and_no_head(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run", sentencepiece(), TASKS["completion"])
    convert("gpt1_jax", target, str(tmp_path / "run"), str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "left out" not in said
    assert ("OpenAIGPTLMHeadModel reads <s> prompt $, where" in said) == (target == "huggingface")
    if target == "huggingface":
        convert("huggingface", "gpt1_jax", str(tmp_path / "out"), str(tmp_path / "back"))
    back = tmp_path / ("back" if target == "huggingface" else "out")
    jax.tree.map(np.testing.assert_array_equal, params_of(back), params_of(tmp_path / "run"))


# ── Heads that other programs have trained ───────────────────────────────────────────────────────────────────


def save_bert(directory: Path, architecture: str, tokenizer: Any, **settings: Any) -> Any:
    """A BERT with a head, its weights random, as transformers saves it."""
    torch.manual_seed(0)
    values = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        **values,
        max_position_embeddings=C,
        initializer_range=0.5,
        **settings,
    )
    model = getattr(transformers, architecture)(config).eval()
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_bytes(tokenizer.files["vocab.txt"])
    return model


FOREIGN = {
    "classification": ("BertForSequenceClassification", {"id2label": {0: "bad", 1: "fine", 2: "best"}}),
    "entailment": ("BertForSequenceClassification", {"id2label": {0: "yes", 1: "no"}}),
    "tagging": ("BertForTokenClassification", {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}}),
    "span": ("BertForQuestionAnswering", {}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_bert_that_others_fine_tuned_becomes_a_run_with_its_logits(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer, (architecture, settings) = make_tokenizer("bert"), FOREIGN[kind]
    model = save_bert(tmp_path / "hub", architecture, tokenizer, **settings)
    named = kind if kind == "entailment" else None
    convert("huggingface", "gpt1_jax", str(tmp_path / "hub"), str(tmp_path / "run"), kind=named)
    said = capsys.readouterr().out
    assert ("is taken for classification; if it reads two texts" in said) == (kind == "classification")
    run = gpt1_jax.load(str(tmp_path / "run"))
    assert run.task is not None and run.task.kind == kind
    assert run.task.labels == tuple(settings.get("id2label", {}).values())
    texts = {"classification": ["the quick dog"], "tagging": ["the", "foxs", "jumps"]}
    example = Example(tuple(texts.get(kind, ["the foxs", "a lazy dog"])), None)
    encoded = encode_examples(run.task, [example], tokenizer, C, "classes", causal=False)
    batch = assemble(encoded, np.arange(1), 1, C, np.arange(1))
    length = int(encoded.offsets[-1])
    given = {"input_ids": batch.tokens[0, :, :length], "token_type_ids": batch.types[0, :, :length]}
    with torch.no_grad():
        found = model(**{name: torch.from_numpy(ids.astype(int)) for name, ids in given.items()})
    params = jax.device_get(run.params)
    with use_mesh():
        logits, _ = jax.jit(
            lambda params: run.classifier.apply(
                {"params": params}, batch.tokens, None, batch.types, batch.groups
            )
        )(params)
    if kind == "span":
        expected = np.stack([found.start_logits.numpy()[0], found.end_logits.numpy()[0]])
        ours = np.asarray(logits)[0, :, :length]
    else:
        expected = np.atleast_2d(found.logits.numpy()[0])
        ours = np.asarray(logits)[0, : len(expected)]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(
    ("architecture", "settings", "flags", "told"),
    [
        (
            "BertForSequenceClassification",
            {"problem_type": "multi_label_classification"},
            {},
            "left out: it gives an example several classes",
        ),
        ("BertForSequenceClassification", {"num_labels": 1}, {}, "left out: its only output is a score"),
        (
            "BertForNextSentencePrediction",
            {},
            {},
            "names the class 'BertForNextSentencePrediction', expected",
        ),
        ("BertForMaskedLM", {}, {}, ""),
    ],
)
def test_what_is_no_head_of_a_run_is_left_out_with_the_reason(
    architecture: str,
    settings: dict[str, Any],
    flags: dict[str, Any],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_bert(tmp_path / "hub", architecture, make_tokenizer("bert"), **settings)
    convert("huggingface", "gpt1_jax", str(tmp_path / "hub"), str(tmp_path / "run"), **flags)
    said = capsys.readouterr().out
    assert told in said and ("The head (" in said) == bool(told)
    assert gpt1_jax.load(str(tmp_path / "run")).task is None


def label(**values: Any) -> Any:
    return lambda config: config | values


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        (label(), "tagging", "--kind=tagging does not go with a head of classification; leave it out."),
        (
            label(id2label={"0": "a", "1": "a"}),
            None,
            "has id2label={'0': 'a', '1': 'a'}, expected names that differ",
        ),
        (label(id2label={"1": "a", "2": "b"}), None, "expected names by the numbers from 0 on"),
        (label(id2label={"0": "a\tb", "1": "c"}), None, "expected a label without TAB"),
        (
            label(id2label={"0": "a", "1": "b", "2": "c"}),
            None,
            "has classifier.weight of shape [2, 32], expected [3,",
        ),
        (label(gpt1_jax={"task": 3}), None, "has a damaged gpt1_jax"),
        (
            label(gpt1_jax={"task": TASKS["entailment"].to_dict() | {"labels": "abc"}, "dropout": 0.1}),
            None,
            "has a damaged gpt1_jax (its labels, choices or scores are not names and whole numbers)",
        ),
        (label(architectures=["BertForMaskedLM"]), "entailment", "--kind=entailment needs a head, but"),
    ],
)
def test_a_head_that_contradicts_itself_is_refused(
    change: Any, kind: str | None, told: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    hub = tmp_path / "in" / "hub"
    save_bert(hub, "BertForSequenceClassification", make_tokenizer("bert"))
    path = hub / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert told in refused("huggingface", hub, tmp_path / "out", kind=kind)
