"""The pages that point into the code: what they name is there."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from npvae import backends

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


def test_the_first_run():
    """The transcript of the README's command: under two minutes, no silence of ten seconds, today's messages."""
    spec = importlib.util.spec_from_file_location("first_run", ROOT / "docs" / "first_run.py")
    first_run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(first_run)
    page = (ROOT / "docs" / "first_run.md").read_text()
    said, lines = first_run.read(page), [line for _, line in first_run.read(page)]
    assert f"&& {' '.join(first_run.COMMAND)}\n" in (ROOT / "README.md").read_text()
    assert len(said) > 10 and said[-1][0] < 120 and first_run.longest_silence(said) < 10
    assert f"The longest silence is {first_run.longest_silence(said):.1f} s" in page
    assert f"compiling the kernels, the first time only: about {backends.TO_COMPILE} s" in lines
    assert lines[-1] == "(end)" and any(line.startswith("test bound: ") for line in lines)
    assert any(" an epoch, " in line for line in lines)
