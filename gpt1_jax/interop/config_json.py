"""config.json of transformers, read with suspicion by the tables of the families, and written for one of ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gpt1_jax.config import ModelConfig
from gpt1_jax.errors import UserError
from gpt1_jax.interop.families import FAMILIES, family_of
from gpt1_jax.interop.family import HIDDEN_FACTOR, Family
from gpt1_jax.interop.json_files import is_size, read_json, shown
from gpt1_jax.interop.published import imported
from gpt1_jax.model.layers import INIT_STDDEV

# What would change any model, and the values with which it is as it is here.
_THEIRS = {"tie_word_embeddings": True, "pruned_heads": {}, "quantization_config": None}
_RATE = 0.1


class ModelDescription(NamedTuple):
    """What a config.json says.

    Attributes:
        family: the family.
        config: of the model that the files hold.
        rows: the rows of the token table.
        hidden: the hidden units that are in use, of config.d_ff.
    """

    family: Family
    config: ModelConfig
    rows: int
    hidden: int


def read_config(path: Path) -> ModelDescription:
    """Reads what a model is.

    Raises:
        UserError: the file is missing or damaged, or the model has what none here has.
    """
    values = read_json(path)
    kind = values.get("model_type") if isinstance(values, dict) else None
    family = next((family for family in FAMILIES if family.model_type == kind), None)
    if family is None:
        *most, last = (f'"{family.model_type}"' for family in FAMILIES)
        raise UserError(
            f'{path} does not say "model_type": {", ".join(most)} or {last}; name a directory of such a model.'
        )

    def refuse(key: str, expected: str) -> UserError:
        return UserError(f"{path} has {key}={shown(values.get(key))}, expected {expected}; correct it.")

    def size(key: str) -> int:
        value = values.get(key)
        if not is_size(value):
            raise refuse(key, "a whole number from 1 to 2**31 - 1")
        return value

    def number(key: str, usual: float, expected: str, low: float) -> float:
        value = values.get(key, usual)
        if type(value) not in (int, float) or not low <= value < 1:
            raise refuse(key, expected)
        return float(value)

    name = values.get(family.activation, next(iter(family.activations)))
    if not isinstance(name, str) or name not in family.activations:
        raise refuse(family.activation, " or ".join(family.activations))
    sizes: dict[str, Any] = {ours: size(key) for key, ours in family.sizes.items()}
    for key, expected in (_THEIRS | {"n_ctx": sizes["context_length"]} | dict(family.theirs)).items():
        if values.get(key, expected) != expected:
            raise UserError(
                f"{path} has {key}={shown(values[key])}, but a model here can only have {expected!r}; convert "
                "a model that has it."
            )
    wide = HIDDEN_FACTOR * sizes["d_model"]
    hidden = wide if values.get(family.hidden) is None else size(family.hidden)
    if family.always_four and hidden > wide:
        raise refuse(family.hidden, f"at most {wide}, four times the width")
    key, usual = family.epsilon
    rest: dict[str, Any] = {
        "d_ff": wide if family.always_four else hidden,
        "norm_epsilon": number(key, usual, "a number from 1e-30 to below 1", low=1e-30),
        "activation": family.activations[name],
    }
    for key, several in family.rates.items():
        rest |= dict.fromkeys(several, number(key, _RATE, "a number from 0 to below 1", low=0))
    config = imported(ModelConfig(**family.ours, **sizes, **rest))
    return ModelDescription(family, config, size("vocab_size"), hidden)


def config_values(config: ModelConfig, rows: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Returns what config.json says of a language model.

    Args:
        config: of a model that its family can tell.
        rows: the rows of the token table.
        tell: receives a line about what the file cannot say.

    Raises:
        UserError: the model has more hidden units than the family's can have.
    """
    family = family_of(config)
    wide = HIDDEN_FACTOR * config.d_model
    if family.always_four and config.d_ff > wide:
        raise UserError(
            f"model.d_ff={config.d_ff} is more than {wide}, the hidden units of every OpenAIGPT of width "
            f"{config.d_model}; convert a model with at most that many."
        )
    for key, several in family.rates.items():
        if len({getattr(config, ours) for ours in several}) > 1:
            tell(
                f"config.json has one rate for {' and '.join(several)}; {key} is that of {several[-1]}, the other is "
                "left out."
            )
    values: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": rows,
        family.activation: next(
            name for name, ours in family.activations.items() if ours == config.activation
        ),
        family.epsilon[0]: config.norm_epsilon,
        family.hidden: config.d_ff,
        "initializer_range": INIT_STDDEV,
        **{key: getattr(config, ours) for key, ours in family.sizes.items()},
        **{key: getattr(config, several[-1]) for key, several in family.rates.items()},
    }
    if "n_positions" in values:
        values["n_ctx"] = config.context_length
    return values
