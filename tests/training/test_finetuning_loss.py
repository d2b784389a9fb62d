"""Fine-tuning's objective L3 = L2 + λ · L1: transformers' two heads, and the same numbers however it is computed.

test_meshes.py compares tasks of one text on meshes.
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from support import tiny_model, use_mesh
from torch_support import torch_names

from gpt1_jax.devices.mesh import place_rows
from gpt1_jax.model.heads import Classifier, Head, Pooling
from gpt1_jax.model.specials import SPECIALS, special_ids
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.tasks.batches import TaskBatch, TaskBatches, assemble
from gpt1_jax.tasks.encoded import EncodedExamples
from gpt1_jax.tasks.grouping import Grouping
from gpt1_jax.training.objectives import finetuning_loss
from gpt1_jax.training.predicting import make_predict
from gpt1_jax.training.state import State, abstract_params
from gpt1_jax.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCAB = 150
SPECIAL_IDS = special_ids(VOCAB)
CONTEXT = 16
LAMBDA = 0.5

Axes = tuple[int, int, int]
ONE_DEVICE: Axes = (1, 1, 1)
MESHES: list[Axes] = [(8, 1, 1), (1, 8, 1), (2, 2, 2)]


class Form(NamedTuple):
    """The form of a task's examples."""

    pooling: Pooling
    sequences: int
    label_width: int


ONE_TEXT = Form("one", 1, 3)
BOTH_ORDERS = Form("sum", 2, 6)
FOUR_CHOICES = Form("each", 4, 4)
SCORED = Form("sum", 2, 1)

each_form = pytest.mark.parametrize(
    "form", [ONE_TEXT, BOTH_ORDERS, FOUR_CHOICES], ids=lambda form: form.pooling
)


@cache
def make_model(form: Form, dropout: bool = True) -> Classifier:
    """A classifier of two blocks, with much dropout or none."""
    rates = (0.2, 0.3, 0.4, 0.5) if dropout else (0.0, 0.0, 0.0, 0.0)
    config = tiny_model(
        context_length=CONTEXT,
        d_ff=128,
        embedding_dropout=rates[0],
        attention_dropout=rates[1],
        residual_dropout=rates[2],
        unroll=1,
    )
    trunk = Transformer(config, VOCAB, specials=SPECIALS)
    outputs = 1 if form.pooling == "each" else form.label_width
    return Classifier(trunk, Head(form.pooling, outputs, rates[3]), SPECIAL_IDS.extract)


@cache
def random_params(form: Form) -> Any:
    """Parameters without a zero or a one among them, but for the table's padding."""
    generator = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        center = 1.0 if path[-1].key.endswith("scale") else 0.0
        return generator.normal(center, 0.2, leaf.shape).astype(np.float32)

    with use_mesh() as mesh:
        params = jax.tree.map_with_path(fill, abstract_params(make_model(form), mesh))
    params["trunk"]["tokens"][VOCAB + 3 :] = 0
    return params


def placed_params(form: Form, mesh: Mesh) -> Any:
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(make_model(form), mesh))
    return jax.device_put(random_params(form), places)


def random_examples(
    form: Form, count: int, lengths: tuple[int, int] = (5, CONTEXT), labels: np.ndarray | None = None
) -> EncodedExamples:
    """Pairs of random texts as sequences of random lengths; by default with random distributions as labels."""
    generator = np.random.default_rng(1)
    sequences = []
    for length in generator.integers(*lengths, count * form.sequences, endpoint=True):
        ids = generator.integers(0, VOCAB, length)
        ids[[0, 2, -1]] = SPECIAL_IDS
        sequences.append(ids)
    if labels is None:
        labels = generator.dirichlet(np.ones(form.label_width), count)
    offsets = np.cumsum([0, *map(len, sequences)])
    return EncodedExamples(
        np.concatenate(sequences), offsets, labels.astype(np.float32), np.zeros(len(labels), np.int64)
    )


def whole_batch(examples: EncodedExamples, rows: int = 8, width: int = CONTEXT) -> TaskBatch:
    """All examples as one batch, in their order, with noise."""
    everything = np.arange(len(examples))
    batch = assemble(examples, everything, rows, width, everything)
    noise = 7 + np.arange(batch.noise.size, dtype=np.uint32).reshape(batch.noise.shape)
    return batch._replace(noise=noise)


@partial(jax.jit, static_argnums=(0, 1, 2))
def loss_and_gradients(
    model: Classifier, auxiliary_weight: float, regression: bool, params: Any, batch: TaskBatch
) -> Any:
    objective = finetuning_loss(model, auxiliary_weight, regression)
    return jax.value_and_grad(objective, has_aux=True)(params, batch)


@partial(jax.jit, static_argnums=(0, 1, 2))
def loss_and_logits(
    model: Classifier, auxiliary_weight: float, regression: bool, params: Any, batch: TaskBatch
) -> Any:
    logits, _ = model.apply({"params": params}, batch.tokens, batch.noise)
    return *finetuning_loss(model, auxiliary_weight, regression)(params, batch), logits


def compute(
    form: Form,
    batch: TaskBatch,
    auxiliary_weight: float = LAMBDA,
    *,
    axes: Axes = ONE_DEVICE,
    dropout: bool = True,
    regression: bool = False,
    gradients: bool = True,
) -> Any:
    """((loss, its parts), gradients), or without those (loss, its parts, logits), all split over a mesh."""
    function = loss_and_gradients if gradients else loss_and_logits
    with use_mesh(*axes) as mesh:
        rows = place_rows(lambda a, b: jax.tree.map(lambda x: x[a:b], batch), len(batch.tokens), mesh)
        params = placed_params(form, mesh)
        return jax.device_get(function(make_model(form, dropout), auxiliary_weight, regression, params, rows))


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Every array within `tolerance` of the greatest of its expected values."""
    for (path, one), other in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        scale = max(np.abs(other).max(), 1e-2)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale, err_msg=str(path))


# ── Against transformers' OpenAIGPTDoubleHeadsModel ──────────────────────────────────────────────────────────


def all_torch_names(params: Any) -> dict[str, np.ndarray]:
    """The parameters under the names and in the shapes of OpenAIGPTDoubleHeadsModel, float64."""
    arrays = torch_names(params["trunk"], VOCAB + 3) | {
        "multiple_choice_head.summary.weight": params["head"]["kernel"].T,
        "multiple_choice_head.summary.bias": params["head"]["bias"],
    }
    return {name: np.array(array, np.float64) for name, array in arrays.items()}


@pytest.mark.parametrize("lengths", [(5, CONTEXT), (CONTEXT, CONTEXT)], ids=["ragged", "equal"])
def test_both_losses_and_all_gradients_are_those_of_transformers(lengths: tuple[int, int]) -> None:
    """Computes in float64. transformers' language-model loss is a mean over all targets: ours if lengths are equal."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
    answers = np.array([2, 0, 3, 1, 1])
    examples = random_examples(FOUR_CHOICES, 5, lengths, np.eye(4)[answers])
    batch = whole_batch(examples)
    (loss, parts), gradients = compute(FOUR_CHOICES, batch, dropout=False)

    reference = transformers.OpenAIGPTDoubleHeadsModel(
        transformers.OpenAIGPTConfig(
            vocab_size=VOCAB + 3, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4
        )
    )
    reference = reference.double().eval()
    weights = all_torch_names(random_params(FOUR_CHOICES))
    missing = reference.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()}, strict=False)
    assert not missing.unexpected_keys
    assert missing.missing_keys == ["lm_head.weight"]
    ids = torch.from_numpy(batch.tokens[:5]).long()
    sizes = np.diff(examples.offsets).reshape(5, 4)
    expected = reference(
        ids, mc_token_ids=torch.from_numpy(sizes - 1), labels=ids, mc_labels=torch.from_numpy(answers)
    )
    sequence_losses = [
        torch.nn.functional.cross_entropy(expected.logits[n, s, : size - 1], ids[n, s, 1:size])
        for (n, s), size in np.ndenumerate(sizes)
    ]
    expected_lm_loss = sum(sequence_losses) / len(sequence_losses)
    expected_loss = expected.mc_loss + LAMBDA * expected_lm_loss
    expected_loss.backward()

    assert float(parts["task_loss"]) == pytest.approx(expected.mc_loss.item(), rel=1e-5)
    assert float(parts["lm_loss"]) == pytest.approx(expected_lm_loss.item(), rel=1e-5)
    assert float(loss) == pytest.approx(expected_loss.item(), rel=1e-5)
    if lengths[0] == lengths[1]:
        assert float(parts["lm_loss"]) == pytest.approx(expected.loss.item(), rel=1e-5)
    expected_gradients = {
        name.replace("lm_head.weight", "transformer.tokens_embed.weight"): parameter.grad.numpy()
        for name, parameter in reference.named_parameters()
    }
    ours = all_torch_names(gradients)
    assert len(ours) == len(expected_gradients) == 28
    assert_close(ours, {name: expected_gradients[name] for name in ours}, 1e-4)
    table = gradients["trunk"]["tokens"]
    assert (np.abs(table[list(SPECIAL_IDS)]).max(-1) > 1e-3).all()
    assert not table[VOCAB + 3 :].any()  # the padding


# ── The two parts ────────────────────────────────────────────────────────────────────────────────────────────


@each_form
def test_the_task_loss_is_the_mean_cross_entropy_to_the_labels(form: Form) -> None:
    """Labels are distributions, as of scores split between their neighbours. With dropout, and rows to spare."""
    examples = random_examples(form, 5)
    _, parts, logits = compute(form, whole_batch(examples), gradients=False)
    logits = logits[:5, 0].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert float(parts["task_loss"]) == pytest.approx(-(examples.labels * log_p).sum(-1).mean(), rel=1e-5)


def test_regression_is_the_mean_squared_error() -> None:
    targets = np.array([[3.6], [0], [5], [1.25], [2]])
    batch = whole_batch(random_examples(SCORED, 5, labels=targets))
    loss, parts, logits = compute(SCORED, batch, regression=True, gradients=False)
    assert float(parts["task_loss"]) == pytest.approx(np.square(logits[:5, 0] - targets).mean(), rel=1e-5)
    assert float(loss) == pytest.approx(float(parts["task_loss"] + LAMBDA * parts["lm_loss"]), rel=1e-6)


def test_lambda_weighs_the_language_model_not_the_task() -> None:
    batch = whole_batch(random_examples(ONE_TEXT, 5))
    losses, parts = zip(*(compute(ONE_TEXT, batch, x, gradients=False)[:2] for x in (0.5, 2.0)), strict=True)
    for both in parts:
        assert both.keys() == {"task_loss", "lm_loss"}
        assert_close(both, parts[0], 1e-6)
    assert losses[0] == pytest.approx(parts[0]["task_loss"] + 0.5 * parts[0]["lm_loss"], rel=1e-6)
    assert losses[1] == pytest.approx(parts[0]["task_loss"] + 2 * parts[0]["lm_loss"], rel=1e-6)


def test_with_a_lambda_of_zero_there_is_no_language_model() -> None:
    batch = whole_batch(random_examples(ONE_TEXT, 5))
    (loss, parts), gradients = compute(ONE_TEXT, batch, 0.0)
    assert parts.keys() == {"task_loss"} and loss == parts["task_loss"]
    objective = finetuning_loss(make_model(ONE_TEXT), LAMBDA, regression=False)
    with use_mesh():
        of_task = jax.value_and_grad(lambda params: objective(params, batch)[1]["task_loss"])
        assert_close((loss, gradients), jax.device_get(jax.jit(of_task)(random_params(ONE_TEXT))))


# ── However they are computed ────────────────────────────────────────────────────────────────────────────────


def test_rows_and_positions_that_only_fill_a_batch_change_nothing() -> None:
    """Five examples alone in their own width, and in eight rows of the whole context; with dropout."""
    examples = random_examples(FOUR_CHOICES, 5, lengths=(5, 11))
    filled = compute(FOUR_CHOICES, whole_batch(examples))
    assert_close(filled, compute(FOUR_CHOICES, whole_batch(examples, rows=5, width=11)))


def test_micro_batches_add_up_to_the_ragged_batch() -> None:
    """Loss, parts and gradients, the latter as an optimizer finds them that only subtracts them."""
    batch = whole_batch(random_examples(FOUR_CHOICES, 5))
    (loss, parts), gradients = compute(FOUR_CHOICES, batch)
    model, optimizer = make_model(FOUR_CHOICES), optax.scale_by_schedule(lambda count: -1.0)
    objective = finetuning_loss(model, LAMBDA, regression=False)
    with use_mesh() as mesh:
        trainer = Trainer(mesh, model, objective, optimizer, lambda update: 1.0, accumulation=4)
        params = placed_params(FOUR_CHOICES, mesh)
        after, metrics = jax.device_get(
            trainer.step(State(np.int32(0), params, optimizer.init(params)), batch)
        )
    assert_close({name: metrics[name] for name in ("loss", *parts)}, {"loss": loss, **parts})
    subtracted = jax.tree.map(np.subtract, random_params(FOUR_CHOICES), after.params)
    assert_close(subtracted, gradients, 1e-4)


def ragged_batch(form: Form) -> TaskBatch:
    """Returns the batch of five, from an epoch of 13 examples in batches of eight rows."""
    batches = TaskBatches(random_examples(form, 13), Grouping("pools", "spread", 8), seed=0)
    (ragged,) = (b for step in (0, 1) if (b := batches.rows(step, 0, 8)).label_weights[-1] == 0)
    assert ragged.noise.all() and ragged.label_weights[:, 0].tolist() == pytest.approx([1 / 5] * 5 + [0] * 3)
    return ragged


@cache
def on_mesh(form: Form, axes: Axes) -> Any:
    """The ragged batch's loss, parts and logits, with dropout; of four choices the gradients instead of logits."""
    return compute(form, ragged_batch(form), axes=axes, gradients=form == FOUR_CHOICES)


@pytest.mark.parametrize("axes", MESHES)
@pytest.mark.parametrize("form", [BOTH_ORDERS, FOUR_CHOICES], ids=lambda form: form.pooling)
def test_the_mesh_changes_nothing(form: Form, axes: Axes) -> None:
    assert_close(on_mesh(form, axes), on_mesh(form, ONE_DEVICE))


# ── Predictions ──────────────────────────────────────────────────────────────────────────────────────────────


@cache
def direct_logits(form: Form, count: int) -> np.ndarray:
    """The logits of all examples at once, in their order and without dropout."""
    batch = whole_batch(random_examples(form, count), rows=count)
    return compute(form, batch, dropout=False, gradients=False)[2]


@pytest.mark.parametrize("axes", [ONE_DEVICE, (8, 1, 1)])
def test_every_examples_logits_are_predicted_once_and_in_order(axes: Axes) -> None:
    """21 examples in batches of 6, or of the 8 that a mesh makes of it."""
    examples = random_examples(FOUR_CHOICES, 21)
    with use_mesh(*axes) as mesh:
        params = placed_params(FOUR_CHOICES, mesh)
        predicted = make_predict(make_model(FOUR_CHOICES), mesh)(params, examples, 6)
    assert {(logits.shape, str(logits.dtype)) for logits in predicted} == {((1, 4), "float32")}
    np.testing.assert_allclose(predicted, direct_logits(FOUR_CHOICES, 21), atol=1e-5)


def test_no_examples_have_no_predictions() -> None:
    examples = EncodedExamples(
        np.zeros(0, np.uint16), np.zeros(1, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    )
    with use_mesh() as mesh:
        predict = make_predict(make_model(FOUR_CHOICES), mesh)
        assert predict(random_params(FOUR_CHOICES), examples, 6) == []
