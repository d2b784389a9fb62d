"""The documents: what they link to and name is there."""

import re
import shlex
from pathlib import Path

import pytest
from command_support import ROOT

PAGES = sorted(
    page.relative_to(ROOT)
    for folder in (".", "docs", "docs/api", "launch", "benchmarks")
    for page in (ROOT / folder).glob("*.md")
)
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=str)
ROOMS = ("gpt1_jax", "configs", "benchmarks", "launch", "tests", "docs")
OURS = ("gpt1_jax", "benchmarks", "tests")


def prose(page: Path) -> str:
    """Returns a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Returns the names by which links address the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in heads}


def module_exists(name: str) -> bool:
    """Returns whether a dotted name is a module of ours, or something within one."""
    file = ROOT.joinpath(*name.split("."))
    if file.with_suffix(".py").exists() or (file / "__init__.py").exists():
        return True
    module, _, last = name.rpartition(".")
    holder = ROOT.joinpath(*module.split("."))
    source = next((f for f in (holder.with_suffix(".py"), holder / "__init__.py") if f.exists()), None)
    return source is not None and re.search(rf"\b{last}\b", source.read_text()) is not None


@EACH_PAGE
def test_a_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page.parent / path) if path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(file.resolve().relative_to(ROOT)), f"{page} links to {target}"


@EACH_PAGE
def test_a_path_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(rf"(?<![\w/.-])(?:{'|'.join(ROOMS)})/[\w./-]*\w", (ROOT / page).read_text())
    for path in named:
        assert (ROOT / path).exists(), f"{page} names {path}"


@EACH_PAGE
def test_a_module_that_a_page_names_by_its_file_exists(page: Path) -> None:
    modules = [f"/{file.relative_to(ROOT)}" for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    for name in re.findall(r"`(?:[\w-]+/)*\w+\.py`", prose(page)):
        assert any(module.endswith(f"/{name.strip('`')}") for module in modules), f"{page} names {name}"


@EACH_PAGE
def test_a_module_that_a_page_names_exists(page: Path) -> None:
    text = (ROOT / page).read_text()
    named = re.findall(rf"(?<![\w/.-])((?:{'|'.join(OURS)})(?:\.[a-z]\w*)+)", text)
    for name in named:
        if name.rpartition(".")[2] not in ("py", "md", "whl", "html"):
            assert module_exists(name), f"{page} names {name}"


@EACH_PAGE
def test_a_command_of_a_page_has_a_shells_grammar(page: Path) -> None:
    blocks = re.findall(r"^```\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("python")]
    for command in commands:
        assert shlex.split(command.rstrip("\\"))[1] == "-m", f"{page} has {command}"


def test_the_first_two_blocks_of_the_readme_are_commands_that_install_and_train_and_that_test() -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert [block.count("\n") for block in blocks[:2]] == [1, 1]
    assert re.match(r"python3 -m pip install .* && python3 -m gpt1_jax.main --config=", blocks[0])
    assert re.match(r"python3 -m pip install .* && python3 -m pytest\n", blocks[1])


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        if page.parts[0] == "docs":
            assert f": {page.relative_to('docs')}\n" in navigation, f"{page} is not in mkdocs.yml"
