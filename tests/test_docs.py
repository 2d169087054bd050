"""The pages that point into the code: what they name is there, and the commands they show are understood."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from npvae import backends, cli

ROOT = Path(__file__).parents[1]
FORMULAS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:4]]
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


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: Folders from which pages name files.
FOLDERS = [ROOT, ROOT / "docs", ROOT / "npvae", ROOT / "npvae" / "backends"]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_names_and_files_exist(page):
    """Outside of blocks of code; the changelog names what is gone, too."""
    words = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    for word in words:
        if name := re.fullmatch(r"(npvae(?:\.\w+)+)(\(.*\))?", word):
            assert resolve(name[1]) is not None
        for file in re.findall(r"(?:^| )([\w./]*/[\w.]+\.(?:py|md|csv|png))", word):
            assert any((folder / file).exists() for folder in FOLDERS), f"{page.name} names {file}"


def commands(page):
    """Return the commands `npvae` in blocks of code."""
    lines = "".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)).splitlines()
    parts = [part.strip() for line in lines for part in re.split("&&|;", line.partition("#")[0])]
    return [part[part.index("npvae ") :] for part in parts if re.match(r"(npvae|do compute-sanitizer .*npvae) ", part)]


@pytest.mark.parametrize("page, command", [(page.name, command) for page in PAGES for command in commands(page)])
def test_commands_are_understood(page, command):
    arguments = cli.build_parser().parse_args(shlex.split(command)[1:])
    assert callable(arguments.run)


def test_commands_are_found():
    found = {page.name: commands(page) for page in PAGES}
    assert found["results.md"] == [
        "npvae train mnist --epochs 200 --learning-rate 0.02",
        "npvae train frey --epochs 6250",
        "npvae reproduce fig2 --samples 1e7",
        "npvae reproduce fig3 --samples 1e7",
        "npvae reproduce fig4 --samples 1e7 --out reproduce-fig2",
        "npvae reproduce fig5 --samples 1e7 --out reproduce-fig2",
    ]
    assert "npvae train --backend cuda --epochs 1" in found["cuda.md"] and len(found["README.md"]) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_sentences_exist(page, capsys):
    """Beside a command, they are options of this command; alone, of some command."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL).replace("\n", " ")
    for command, options in re.findall(r"`npvae (\w+)((?: [^`]+)?)`", text):
        with pytest.raises(SystemExit, match="0"):
            cli.main([command, "--help"])
        said = capsys.readouterr().out
        assert all(option in said for option in re.findall(r"--[\w-]+", options)), command


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


@pytest.mark.slow(reason="trains, and anneals for some seconds")
def test_the_examples_of_the_samplers():
    """They run, one after the other, and the numbers are about those that comments state."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "samplers.md").read_text(), re.DOTALL))
    names = {}
    first, *others = code.partition("import npvae\n")
    exec(compile(first, "samplers.md", "exec"), names)
    samples = names["samples"]
    assert samples.z.shape == (500, 50, 2) and names["split_rhat"](samples.z).max() < 1.005
    assert samples.divergent.sum() == 0
    radius = (samples.z**2).sum(axis=2) ** 0.5
    assert abs(radius.mean() - 3) < 0.1
    exec(compile("".join(others), "samplers.md", "exec"), names)
    assert names["z"].shape == (200, 4, 3, 2) and names["effective_sample_size"](names["z"]).min() > 20
    assert -0.1 < names["found"].gap.mean() < 0.6


def test_the_examples_of_the_evaluation(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text(), re.DOTALL)
    names = {}
    exec(compile(code.replace("max_epochs=30", 'max_epochs=30, backend="reference"'), "evaluation.md", "exec"), names)
    model, rows = names["model"], names["X"][900:]
    assert model.score(rows) < model.log_likelihood(rows, n_samples=100).mean()
    assert sum(model.health_.active) == 2 and "(100,)" in capsys.readouterr().out


def test_the_examples_of_the_uses():
    """They run, and what the page says of their shapes and of the errors holds."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "uses.md").read_text(), re.DOTALL))
    names = {}
    exec(compile(code.replace("max_epochs=200", 'max_epochs=200, backend="reference"'), "uses.md", "exec"), names)
    X, holes, error = names["X"], names["holes"], lambda answer: ((names[answer] - names["X"][:20]) ** 2).mean()
    assert names["mean"].shape == (500, 2) and names["draws"].shape == (5, 20, 5)
    assert ((names["std"] > 0) == names["np"].isnan(holes)).all()
    assert error("filled") < error("baseline") < X.var(axis=0).mean()
    assert error("clean") < 0.2 * error("replaced")
