"""Mixtures of completions: files with weights, in order, and one sentence on what is none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.finetune import paper
from gpt1_jax.config import DataConfig, FinetuneConfig
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.mixing import is_mixture, read_shares, repeat
from gpt1_jax.tasks.reading import TaskData, read_task
from gpt1_jax.tasks.task import Example


def write(path: Path, count: int) -> Path:
    rows = [{"prompt": f"{path.name[0]}{number}", "completion": "x"} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(source: str, kind: Any = "completion", seed: int = 0) -> TaskData:
    settings = paper("custom").finetune
    assert settings
    data = DataConfig(source=source, split_seed=seed)
    return read_task(replace(settings, kind=kind), data)


def prompts(examples: list[Example], group: str) -> list[str]:
    return [example.texts[0] for example in examples if example.group == group]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "a.jsonl", 30), write(tmp_path / "b.jsonl", 41)


def test_a_weight_is_the_passes_over_a_files_training_part_in_an_epoch(files: tuple[Path, Path]) -> None:
    """Examples are held out before they are repeated, and each once."""
    a, b = files
    data = read(f"files:{a}*2, {b}*0.5")
    alone = {"a": read(f"files:{a}"), "b": read(f"files:{b}")}
    for name, single in alone.items():
        assert prompts(data.validation, name) == prompts(single.validation, "")
    train = prompts(alone["a"].train, "")
    assert prompts(data.train, "a") == train * 2
    half, whole = prompts(data.train, "b"), prompts(alone["b"].train, "")
    assert len(half) == round(len(whole) / 2) and len({*half}) == len(half)
    assert half == [prompt for prompt in whole if prompt in half]
    assert [example.group for example in data.train] == ["a"] * len(train) * 2 + ["b"] * len(half)
    assert not {*prompts(data.train, "b")} & {*prompts(data.validation, "b")}


def test_a_seed_draws_the_same_part_and_another_seed_another(files: tuple[Path, Path]) -> None:
    examples = [Example((str(number),), "x") for number in range(50)]
    assert repeat(examples, 0.5, 1) == repeat(examples, 0.5, 1) != repeat(examples, 0.5, 2)
    assert repeat(examples, 1.5, 1) == [*examples, *repeat(examples, 0.5, 1)]
    assert repeat(examples, 1, 0) == examples and len(repeat(examples, 0.001, 0)) == 1


@pytest.mark.parametrize(
    ("source", "several"),
    [
        ("files:a.jsonl,b.jsonl", True),
        ("files:a.jsonl*2", True),
        ("files:a.jsonl*-2", True),
        ("files:a*b/c.jsonl", False),
        ("files:a.jsonl", False),
        ("tfds", False),
    ],
)
def test_a_comma_or_a_weight_makes_a_mixture(source: str, several: bool) -> None:
    assert is_mixture(source) == several


def test_a_file_whose_name_has_a_comma_is_a_file(tmp_path: Path) -> None:
    assert not is_mixture(f"files:{write(tmp_path / 'a,b.jsonl', 3)}")


def test_a_weight_not_given_is_1() -> None:
    assert [part[1:] for part in read_shares("files:x/a.jsonl,b.csv.gz*.25,c*3.")] == [
        ("a", 1.0),
        ("b", 0.25),
        ("c", 3.0),
    ]


@pytest.mark.parametrize("entry", ["", "*2", "a*", "a*0", "a*-1", "a*nan", "a*1e3", "a*1001", "a*2*2", "a*x"])
def test_what_is_no_weight_is_named(entry: str) -> None:
    with pytest.raises(UserError, match=r"^data\.source=.* has the entry .*; set a WEIGHT above 0") as error:
        read_shares(f"files:b.jsonl,{entry}")
    assert repr(entry) in str(error.value)


def test_two_files_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"names 'a' twice.*rename one"):
        read_shares("files:x/a.jsonl,y/a.csv")


def test_a_part_that_is_not_there_is_named(files: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"^data\.source: .*missing\.jsonl cannot be read \(No such file.*; "):
        read(f"files:{files[0]},{files[0].with_name('missing.jsonl')}")


def test_only_completions_are_mixed(files: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"^data\.source=.*only training with finetune\.kind=completion"):
        read(f"files:{files[0]},{files[1]}", kind="classification")
    named = FinetuneConfig("rte")
    with pytest.raises(UserError, match="name one file or one directory"):
        read_task(named, DataConfig(source="files:x,y"))
