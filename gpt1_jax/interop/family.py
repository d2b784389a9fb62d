"""What the table of a family says: its tensors, and the keys of its config.json, beside ours (see `families`).

Letters: L layers, D width, H heads, K head width, F hidden units, C context length, V pieces, N token types. 3 stands
for query, key and value.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from gpt1_jax.config import ModelConfig, schema

HIDDEN_FACTOR = 4
# Stands before the names of parameters that each layer has.
BLOCKS = "blocks."
Projection = Literal["query", "key", "value"]
_PARTS: tuple[Projection, ...] = ("query", "key", "value")

# The axes of each parameter; a space divides what a published matrix multiplies from what comes of it. Those of blocks
# are told for one layer.
_AXES = {
    "tokens": "V D",
    "positions": "C D",
    "token_types": "N D",
    "embedding_norm_scale": "D",
    "embedding_norm_bias": "D",
    "final_norm_scale": "D",
    "final_norm_bias": "D",
    "transform_kernel": "D D",
    "transform_bias": "D",
    "transform_norm_scale": "D",
    "transform_norm_bias": "D",
    "output_bias": "V",
    "pooler_kernel": "D D",
    "pooler_bias": "D",
    "blocks.qkv_kernel": "D 3HK",
    "blocks.qkv_bias": "3HK",
    "blocks.out_kernel": "HK D",
    "blocks.out_bias": "D",
    "blocks.norm_1_scale": "D",
    "blocks.norm_1_bias": "D",
    "blocks.mlp_in_kernel": "D F",
    "blocks.mlp_in_bias": "F",
    "blocks.mlp_out_kernel": "F D",
    "blocks.mlp_out_bias": "D",
    "blocks.norm_2_scale": "D",
    "blocks.norm_2_bias": "D",
}


class Weight(NamedTuple):
    """A published tensor beside ours.

    Attributes:
        name: its name, with {} for the number of its layer.
        ours: the name of our parameter.
        part: which part of query, key and value it is, where each has a tensor of its own; None is all.
        transposed: whether the matrix is [out, in].
    """

    name: str
    ours: str
    part: Projection | None = None
    transposed: bool = False

    @property
    def padded(self) -> bool:
        """Whether the parameter has a row for each piece, and so padding in a trunk."""
        return _AXES[self.ours][0] == "V"

    def published(self, array: np.ndarray) -> np.ndarray:
        """Returns the tensor of our parameter, of one layer."""
        if self.part is not None:
            array = array.take(_PARTS.index(self.part), axis=-3)
        matrix = self._matrix(dict(zip(self._letters(), array.shape, strict=True)))
        array = array.reshape(matrix)
        return array.T if self.transposed else array

    def ours_of(self, array: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
        """Returns our parameter, or its part, of the tensor."""
        return (array.T if self.transposed else array).reshape([sizes[letter] for letter in self._letters()])

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Returns the shape of the tensor, given the size of each letter."""
        shape = self._matrix(sizes)
        return shape[::-1] if self.transposed else shape

    def _axes(self) -> str:
        return _AXES[self.ours].replace("3", "" if self.part else "3")

    def _letters(self) -> str:
        return self._axes().replace(" ", "")

    def _matrix(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(math.prod(sizes[letter] for letter in axes) for axes in self._axes().split())


class TensorPlace(NamedTuple):
    """A tensor of a certain model.

    Attributes:
        name: the published name, without the prefix of the family.
        weight: the line of the table.
        layer: the number of its layer; None outside the blocks.
        shape: the published shape.
    """

    name: str
    weight: Weight
    layer: int | None
    shape: tuple[int, ...]

    @property
    def key(self) -> str:
        """The name of our parameter among the weights of a `LanguageModel`."""
        return self.weight.ours if self.layer is None else weight_key(self.weight.ours, self.layer)


def weight_key(ours: str, layer: int) -> str:
    """Returns the name of a block's parameter among the weights of a `LanguageModel`."""
    return ours.replace(BLOCKS, f"{BLOCKS}{layer}.")


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        model_type: transformers' name of it.
        title: ours.
        architecture: the class of its language models.
        prefix: stands before the names of a language model's tensors, except those of `bare`.
        outer, block: the tables of tensors, outside the blocks and of one block, in the published order.
        sizes: keys of config.json, beside our key of the model; each is a whole number.
        hidden: the key of the hidden units; where it is absent, there are four times the width.
        always_four: whether there are four times the width whatever the key says.
        epsilon: the key of the norms' ε, and its usual value.
        rates: keys of dropout rates, beside ours.
        activation: the key of the activation.
        activations: its values, beside ours, the usual one first; of several for one of ours, the first is written.
        ours: what the family's models have in common, where that is not the default of our key.
        theirs: keys of config.json that would change the model, and the values with which it is as it is here.
        copies: names of tensors that repeat another.
        older: parts of names, beside those of today.
        optional: what files may lack, and which of our parameters it is made of.
        bare: beginnings of names that have no prefix.
    """

    model_type: str
    title: str
    architecture: str
    prefix: str
    outer: tuple[Weight, ...]
    block: tuple[Weight, ...]
    sizes: Mapping[str, str]
    epsilon: tuple[str, float]
    rates: Mapping[str, tuple[str, ...]]
    activation: str
    activations: Mapping[str, str]
    copies: Mapping[str, str]
    hidden: str = "n_inner"
    always_four: bool = False
    ours: Mapping[str, object] = field(default_factory=dict)
    theirs: Mapping[str, object] = field(default_factory=dict)
    older: Mapping[str, str] = field(default_factory=dict)
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bare: tuple[str, ...] = ()

    def places(self, config: ModelConfig, rows: int) -> Iterator[TensorPlace]:
        """Yields the tensors of a model in the published order.

        They come one at a time, so that a search for them in a file ends at the first that is missing, however many
        layers the file claims to have.
        """
        sizes = axis_sizes(config, rows)
        for weight in self.outer:
            yield TensorPlace(weight.name, weight, None, weight.shape(sizes))
        shapes = [weight.shape(sizes) for weight in self.block]
        for layer in range(config.num_layers):
            for weight, shape in zip(self.block, shapes, strict=True):
                yield TensorPlace(weight.name.format(layer), weight, layer, shape)

    def name_of(self, ours: str) -> str:
        """Returns the published name of a parameter outside the blocks."""
        return next(weight.name for weight in self.outer if weight.ours == ours)

    def full(self, name: str) -> str:
        """Returns a tensor's name with the prefix, as files of whole models have it."""
        return name if name.startswith(self.bare) else self.prefix + name

    def last_norm(self, config: ModelConfig) -> tuple[str, str]:
        """Returns the names of the gain and the bias of the norm whose output the heads read."""
        final = [weight.name for weight in self.outer if weight.ours.startswith("final_norm")]
        last = [weight for weight in self.block if weight.ours.startswith(f"{BLOCKS}norm_2")]
        scale, shift = final or [weight.name.format(config.num_layers - 1) for weight in last]
        return scale, shift

    def misfit(self, config: ModelConfig) -> tuple[str, str] | None:
        """Returns the first of our keys whose value the family cannot tell, with what it expects, or None."""
        told = {*self.sizes.values(), "d_ff", "norm_epsilon"}
        for name, key in schema().items():
            section, _, short = name.partition(".")
            if not key.architecture or section != "model" or short in told:
                continue
            value, expected = getattr(config, short), (self.ours.get(short, key.default),)
            if short == "activation":
                expected = tuple(dict.fromkeys(self.activations.values()))
            if value not in expected:
                return short, " or ".join(map(str, expected))
        if "token_types" in self.sizes.values() and config.token_types < 1:
            return "token_types", "at least 1"
        return None


def axis_sizes(config: ModelConfig, rows: int) -> dict[str, int]:
    """Returns the size of each letter of a model whose token table has that many rows."""
    return {
        "V": rows,
        "C": config.context_length,
        "N": config.token_types,
        "D": config.d_model,
        "3": len(_PARTS),
        "H": config.num_heads,
        "K": config.d_model // config.num_heads,
        "F": config.d_ff,
    }
