"""The pages that point into the code: what they name is there."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORMULAS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (ROOT / "docs" / "formulas.md").read_text().splitlines()
    if line.startswith("| ") and "`" in line
]


@pytest.mark.parametrize("formula, stated, checked", FORMULAS, ids=[row[0][:40] for row in FORMULAS])
def test_every_formula_has_a_function_and_a_test(formula, stated, checked):
    (name,), (test,) = (re.findall(r"`([^`]+)`", cell) for cell in (stated, checked))
    assert resolve(name) is not None
    path, _, function = test.partition("::")
    names = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert function in names and function.startswith("test_")


def resolve(name):
    """Return what a dotted name stands for: a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            thing = getattr(thing, part)
        return thing
    raise AssertionError(f"{name} is nowhere")


def test_links_between_pages():
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
