"""Any config from flags or a file is read, or refused in a sentence; hypothesis draws them."""

import json
import re
import string
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from configs import finetune, pretrain
from gpt1_jax import config_flag
from gpt1_jax.config import schema
from gpt1_jax.door import _as_typed, _illegal, _suggest
from gpt1_jax.errors import UserError
from gpt1_jax.overrides import from_dict, parse_override, to_dict

few = settings(derandomize=True, max_examples=150, deadline=None)

numbers = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["1" * 5000, "1e999", "-0", "0x10", "1_000", "٣", "+5", " 5 ", "5\n", "1e3", "infinity", "nan", ""]
    ),
)
texts = st.one_of(
    numbers, st.text(max_size=20), st.sampled_from(["x" * 10_000, "\ud800", "\0", "None", "{}"])
)
keys = st.one_of(
    st.sampled_from(list(schema())),
    st.sampled_from(list(schema())).flatmap(
        lambda key: st.sampled_from([key[:-1], key + "x", key.upper(), key + ".x", "." + key])
    ),
    st.text(string.ascii_letters + "._Ä-=", max_size=30),
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**20, 10**400)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def sentence(error: UserError) -> str:
    """The message, which is one line of a sane length."""
    message = str(error)
    assert message.isprintable() and len(message) < 2500 and message.endswith((".", "?"))
    return message


@few
@given(keys, texts)
def test_an_override_is_a_value_of_the_schema_or_a_sentence_that_names_it(key: str, text: str) -> None:
    try:
        value = parse_override(key, text)
    except UserError as error:
        assert key.isprintable() and f"config.{key}" in sentence(error)
        return
    assert key in schema()
    # What is accepted on the command line, a config file may hold.
    values: dict[str, Any] = to_dict(
        finetune.paper("cola") if key.startswith("finetune.") else pretrain.tiny()
    )
    values["model"] = to_dict(pretrain.tiny())["model"]
    values["data"] |= {"tokenizer": "sentencepiece", "vocab_size": 300}
    values["init_from"] = "run"
    *path, name = key.split(".")
    section = values
    for part in path:
        section = section[part]
    section[name] = value
    try:
        config = to_dict(from_dict(values))
    except UserError as error:  # it does not fit the others
        assert "out of range" not in sentence(error)
        assert not re.search("is not (a (whole )?number|a text|true or false)", str(error))
        return
    for part in key.split("."):
        config = config[part]
    assert config == value


@few
@given(st.dictionaries(keys, json_values, max_size=3), st.sampled_from(["pretrain", "finetune"]))
def test_a_config_of_any_json_is_read_or_refused_in_a_sentence(changes: dict[str, Any], stage: str) -> None:
    values = to_dict(pretrain.tiny())
    if stage == "finetune":
        values |= {"init_from": "run", "finetune": to_dict(finetune.paper("cola"))["finetune"]}
    for key, value in changes.items():
        *path, name = key.split(".")
        section: Any = values
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section[name] = value
    try:
        config = from_dict(values)
    except UserError as error:
        sentence(error)
        return
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@few
@given(json_values)
def test_a_config_that_is_something_else_is_refused(value: Any) -> None:
    assume(isinstance(value, dict))
    with pytest.raises(UserError) as caught:
        from_dict(value)
    sentence(caught.value)


arguments = st.lists(
    st.one_of(
        st.tuples(keys, texts).map(lambda pair: f"--config.{pair[0]}={pair[1]}"),
        keys.map(lambda key: f"-config.{key}"),
        st.sampled_from(
            ["--config=a.py", "--config", "--", "-", "--config.seed", "5", "--noconfig.seed", "config.seed=3"]
        ),
        st.text(max_size=10),
    ),
    max_size=6,
)


@few
@given(arguments)
def test_a_command_line_is_allowed_or_refused_in_a_sentence(line: list[str]) -> None:
    try:
        config_flag.check(line)
    except UserError as error:
        assert "--config" in sentence(error) or "config." in str(error)
    for key in config_flag.named_keys():
        assert key


@few
@given(st.text(max_size=40))
def test_any_name_gets_a_suggestion_and_any_message_a_sentence(text: str) -> None:
    assert _suggest(text)
    assert _illegal(f"flag --{text}={text}: {text}")
    assert _bare(_as_typed(text, {})) == _bare(text)


def _bare(message: str) -> str:
    """Leaves out what a message gains around the name of a setting."""
    return message.replace("--", "").replace("config.", "")
