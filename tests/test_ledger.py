"""The ledger of docs/fidelity.md: whatever a row names is there, and no switch to the authors' way lacks a row."""

import re
import runpy
from typing import NamedTuple

import pytest
from command_support import ROOT

from gpt1_jax.config import schema
from gpt1_jax.config_flag import packaged
from gpt1_jax.overrides import flatten

HEAD = ["the paper", "the program", "ours", "test", "switch", "worth"]


class Row(NamedTuple):
    paper: str
    program: str
    ours: str
    test: str
    switch: str
    worth: str


def rows() -> list[Row]:
    """The lines of all tables with the ledger's head."""
    found, inside = [], False
    for line in (ROOT / "docs/fidelity.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells == HEAD:
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            assert len(cells) == len(HEAD), line
            found.append(Row(*cells))
    return found


ROWS = rows()
EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.paper[:30]} {row.program[:30]}")


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@EACH_ROW
def test_the_modules_and_tests_of_a_row_exist(row: Row) -> None:
    assert quoted(row.ours) and quoted(row.test)
    for path in quoted(row.ours):
        assert (ROOT / path).exists(), path
    for name in quoted(row.test):
        path, _, function = name.partition("::")
        text = (ROOT / "tests" / path).read_text()
        assert not function or f"def {function}(" in text, name


@EACH_ROW
def test_the_switch_of_a_row_is_a_key_that_takes_its_value(row: Row) -> None:
    for setting in quoted(row.switch):
        name, _, value = setting.partition("=")
        key = schema()[name]
        assert not value or not key.choices or value in key.choices, setting


def test_every_switch_to_the_authors_way_has_a_row() -> None:
    ours, theirs = (
        flatten(runpy.run_path(str(packaged()[name]))["get_config"]("rte").to_dict())
        for name in ("finetune", "finetune_authors")
    )
    switches = {key for key in ours if ours[key] != theirs[key]}
    named = {setting.partition("=")[0] for row in ROWS for setting in quoted(row.switch)}
    assert len(switches) > 4 and switches <= named
    sourced = {key.name for key in schema().values() if key.source in ("paper", "code")}
    assert sourced - named == set()
