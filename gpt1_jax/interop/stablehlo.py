"""A run as a program that needs only jax: it scores or labels token ids. With it lies all that a loader must know.

The program is StableHLO, exported for any number of rows and any length. Its weights lie beside it.

Letters: B rows, S sequences of a row, T positions, V pieces, P places with labels, C outputs at each.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

from gpt1_jax.config import ModelConfig
from gpt1_jax.data.tokenizers.gpt1 import OPENAI_FILES
from gpt1_jax.devices.mesh import use_any_device
from gpt1_jax.errors import UserError
from gpt1_jax.interop.task_heads import LAYOUTS
from gpt1_jax.interop.tensors import SAFETENSORS, write_safetensors
from gpt1_jax.interop.tokenizers import write_tokenizer
from gpt1_jax.model import output
from gpt1_jax.model.embedding import project
from gpt1_jax.model.trunk import used_rows
from gpt1_jax.tasks.classifier import make_classifier
from gpt1_jax.tasks.frames import make_frame
from gpt1_jax.tasks.task import Task
from gpt1_jax.usage.notices import check_finite
from gpt1_jax.usage.trained import TrainedRun

PLATFORMS = ("cpu", "cuda", "tpu")
ABOUT = "program.json"

_INT32 = "int32"
_README = """# {title}

`{name}.stablehlo` is a program for {platforms}, as `jax.export` writes it. Any number of rows and any length up to
{context} will do. `{about}` says what goes in and what comes out.

```python
import json
import pathlib

import numpy as np
from jax import export
from safetensors.numpy import load_file

about = json.loads(pathlib.Path("{about}").read_text())
weights = load_file(about["weights"])
program = export.deserialize(pathlib.Path("{name}.stablehlo").read_bytes())
inputs = [np.zeros({shape}, dtype["dtype"]) for dtype in about["inputs"]]
{output} = np.asarray(program.call(weights, *inputs))
```
"""


class _Input(NamedTuple):
    """An argument of a program: its name, its shape in the letters above, and what it holds."""

    name: str
    shape: str
    holds: str


class _Program(NamedTuple):
    """A program to export.

    Attributes:
        name: of its files.
        function: (parameters, *inputs) → output.
        inputs: the arguments besides the parameters.
        output, shape, holds: the name, the shape and the meaning of what comes out.
    """

    name: str
    function: Callable[..., jax.Array]
    inputs: tuple[_Input, ...]
    output: str
    shape: str
    holds: str


def write_stablehlo(trained: TrainedRun, directory: Path) -> None:
    """Writes the program of a run into an existing directory.

    A language model scores texts, a BERT says what may stand at each position, and a fine-tuned run gives the logits of
    its head.

    Raises:
        UserError: the model has a form that cannot be exported.
    """
    if trained.config.model.kind != "transformer":
        raise UserError("model.kind=lstm cannot be exported to stablehlo; name a run of a Transformer.")
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError(
            "--to=stablehlo needs the package flatbuffers; install it: pip install gpt1_jax[stablehlo]."
        )
    program = _score(trained) if _is_text(trained) else _predict(trained)
    params: Any = jax.device_get(trained.params if program.name == "predict" else trained.trunk_params)
    weights = {name: np.asarray(array) for name, array in traverse_util.flatten_dict(params, sep="/").items()}
    for array in weights.values():
        check_finite(array)
    exported = _export(program, weights, trained.config.model.context_length)
    (directory / f"{program.name}.stablehlo").write_bytes(exported.serialize())
    write_safetensors(weights, directory / SAFETENSORS)
    surrounded = not trained.config.model.causal
    write_tokenizer(trained.tokenizer, directory, OPENAI_FILES, surrounded)
    (directory / ABOUT).write_text(json.dumps(_about(trained, program), indent=2) + "\n")
    shape = tuple(
        2 if size == "B" else int(size) if size.isdigit() else 5 for size in program.inputs[0].shape.split()
    )
    readme = _README.format(
        title=f"{trained.run.directory.name}, step {trained.step:,}",
        name=program.name,
        platforms=", ".join(PLATFORMS),
        context=trained.config.model.context_length,
        about=ABOUT,
        shape=shape,
        output=program.output,
    )
    (directory / "README.md").write_text(readme)


def _is_text(trained: TrainedRun) -> bool:
    """Returns whether the run has no head: it was pre-trained, or its task is text."""
    return trained.task is None or trained.task.kind == "completion"


# ── Programs ─────────────────────────────────────────────────────────────────────────────────────────────────


def _score(trained: TrainedRun) -> _Program:
    """Returns the program of a language model."""
    config = _plain(trained)
    trunk = trained.trunk.clone(config=config)
    pieces = used_rows(trunk)
    tokens = _Input("tokens", "B T", "ids, with anything behind the end of a shorter row")

    def states(params: Any, *inputs: Any) -> jax.Array:
        found: Any = trunk.apply({"params": params}, inputs[0], None, *inputs[1:])
        return output.before_table(config, params, found.astype(jnp.float32))

    if not config.causal:

        def fill(params: Any, *inputs: Any) -> jax.Array:
            found = project(states(params, *inputs), params["tokens"]) + params["output_bias"]
            return jax.nn.log_softmax(found[..., :pieces])

        inputs = (tokens, *_both_ways("B T"))
        return _Program(
            "fill", fill, inputs, "logprobs", f"B T {pieces}", "of each piece at each position, in nats"
        )

    def score(params: Any, given: Any) -> jax.Array:
        found = jax.nn.log_softmax(project(states(params, given), params["tokens"])[..., :pieces])
        return jnp.take_along_axis(found[:, :-1], given[:, 1:, None], -1)[..., 0]

    holds = f"of each token after the first, given those before it, among {pieces} ids, in nats"
    return _Program("score", score, (tokens,), "logprobs", "B T-1", holds)


def _predict(trained: TrainedRun) -> _Program:
    """Returns the program of a fine-tuned run."""
    settings, task = trained.config.finetune, trained.task
    assert settings is not None and task is not None
    classifier = make_classifier(_plain(trained), settings, task, trained.tokenizer.vocab_size)
    assert classifier.head is not None
    pooling = classifier.head.pooling
    sequences = {"sum": 2, "each": task.choices}.get(pooling, 1)
    shape = f"B {sequences} T"
    causal = classifier.trunk.config.causal
    orders = "; one sequence for each order of the texts" if pooling == "sum" else ""
    inputs = (_Input("tokens", shape, f"ids, framed as `layout` says; 0 behind the end{orders}"),)
    inputs += () if causal else _both_ways(shape)

    def predict(params: Any, *given: Any) -> jax.Array:
        return cast(Any, classifier.apply({"params": params}, *given, method="answer"))

    outputs = {
        "one": (
            f"B 1 {classifier.head.outputs}",
            "of the classes, or the score itself where there is one output",
        ),
        "sum": (
            f"B 1 {classifier.head.outputs}",
            "of the classes, or the score itself where there is one output",
        ),
        "each": (f"B 1 {task.choices}", "of the choices"),
        "tokens": (f"B T {classifier.head.outputs}", "of the tags, at each position"),
        "ends": ("B 2 T", "of each position as the first and as the last of the answer"),
    }
    return _Program("predict", predict, inputs, "logits", *outputs[pooling])


def _plain(trained: TrainedRun) -> ModelConfig:
    """Returns the config with the only form of attention that knows no length in advance."""
    return dataclasses.replace(trained.config.model, attention="plain")


def _both_ways(shape: str) -> tuple[_Input, _Input]:
    return (
        _Input("types", shape, "0, and 1 in the second text of a row and the [SEP] behind it"),
        _Input("groups", shape, "0, and -1 behind the end of a row"),
    )


def _export(program: _Program, weights: Mapping[str, np.ndarray], context: int) -> export.Exported:
    """Exports a program for a single device."""
    rows, length = export.symbolic_shape("B, T", constraints=[f"T <= {context}", "T >= 2"])
    known = {"B": rows, "T": length}

    def shaped(given: _Input) -> jax.ShapeDtypeStruct:
        sizes = [known.get(size) or int(size) for size in given.shape.split()]
        return jax.ShapeDtypeStruct(tuple(sizes), jnp.int32)

    def call(weights: Mapping[str, jax.Array], *inputs: jax.Array) -> jax.Array:
        return program.function(traverse_util.unflatten_dict({**weights}, sep="/"), *inputs)

    arguments = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()}
    with use_any_device():
        return export.export(jax.jit(call), platforms=PLATFORMS)(arguments, *map(shaped, program.inputs))


# ── What a loader must know ──────────────────────────────────────────────────────────────────────────────────


def _about(trained: TrainedRun, program: _Program) -> dict[str, Any]:
    """Returns what `program.json` says."""
    tokenizer, model = trained.tokenizer, trained.config.model
    about: dict[str, Any] = {
        "program": program.name,
        "jax": jax.__version__,
        "platforms": PLATFORMS,
        "weights": SAFETENSORS,
        "inputs": [{**given._asdict(), "dtype": _INT32} for given in program.inputs],
        "output": {
            "name": program.output,
            "shape": program.shape,
            "holds": program.holds,
            "dtype": "float32",
        },
        "step": trained.step,
        "context_length": model.context_length,
        "pieces": tokenizer.vocab_size,
        "end_id": tokenizer.end_id,
        "special_ids": dict(tokenizer.special_ids),
    }
    return about | ({} if trained.task is None else _about_task(trained, trained.task))


def _about_task(trained: TrainedRun, task: Task) -> dict[str, Any]:
    """Returns what `program.json` says of a task: how texts become rows, and what the outputs stand for."""
    frame = make_frame(trained.tokenizer, trained.config.model.causal)
    marks = ("[CLS]", "[SEP]", "[SEP]") if frame.both_ways else ("<s>", "$", "<e>")
    ids = dict(zip(marks, frame[:3], strict=True))
    outputs: dict[str, Any] = {"labels": task.labels}
    if task.score_range is not None:
        low, high = task.score_range
        regression = trained.config.finetune is not None and trained.config.finetune.scores == "regression"
        outputs = {"range": (low, high)} if regression else {"scores": [*range(low, high + 1)]}
    return {
        "task": task.name,
        "kind": task.kind,
        "layout": LAYOUTS[task.kind].format(**dict(zip(("start", "delimiter", "end"), marks, strict=True))),
        "ids": ids,
        **{name: value for name, value in outputs.items() if value},
    }
