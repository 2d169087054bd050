"""The tutorials: each runs, says what it measured, and covers its formulas; exercises name the mistakes they know."""

import ast
import functools
import re
from pathlib import Path

import jupytext
import overview
import pytest
from overview import TUTORIALS, number

ROOT = Path(__file__).parents[1]

#: Tutorial -> the longest it may take on two cores with compiled kernels, in seconds.
LIMITS = {
    "00": 20, "01": 60, "02": 20, "03": 15, "04": 20, "05": 20, "06": 20, "07": 30, "08": 60, "09": 30, "10": 45,
    "11": 30, "12": 45, "a1": 30,
}  # fmt: skip

#: Tutorial -> what of the library it writes by hand, and what may be used from there on. A name stands for all names
#: that begin with it; the longest counts. `VAE` and `Model` hold the parameters that some comparisons need.
LEDGER = {
    "00": "datasets plots exercises",
    "01": "VAE",
    "02": """distributions.Normal distributions.MultivariateNormal evaluation.LinearGaussian
        evaluation.estimates.log_mean_exp evaluation.expectation_maximization""",
    "03": """backends.reference.add_log_prior backends.reference.gaussian_latent
        backends.reference.gaussian_latent_backward backends.reference.gaussian_log_prob distributions.kl_divergence
        distributions.Gumbel distributions.Laplace distributions.Logistic distributions.Triangular distributions.Uniform
        distributions.divergence evaluation.quadrature""",
    "04": "backends.reference.gaussian_log_q backends.reference estimators.ScoreFunction model",
    "05": "distributions",
    "06": "estimators.SGVB evaluation.gradient_variance parameters backends.formulas.MIN_LOG_VAR",
    "07": """backends.reference.bernoulli_log_prob backends.reference.dense backends.reference.dense_backward
        check_gradient gradcheck""",
    "08": "optimizers",
    "09": "evaluation.examine",
    "10": "backends.formulas conditional",
    "11": "samplers evaluation",
    "12": "estimators.FullVB estimators.full_vb",
    "a1": "backends",
}
FIRST_USE = {f"npvae.{name}": no for no, names in LEDGER.items() for name in names.split()}

#: A line of code that makes a figure.
DRAWS = re.compile(r"= plt\.|^(npvae\.)?plots\.", re.MULTILINE)

every = pytest.mark.parametrize("path", TUTORIALS, ids=number)


@functools.cache
def notebook(path):
    return jupytext.read(path, fmt="py:percent")


def cells(path, kind):
    return [cell for cell in notebook(path).cells if cell.cell_type == kind]


def numbers_of_code(text):
    """Return the number of lines of code: those with more than a comment on them, and no lines of a docstring."""
    tree = ast.parse(text)
    documents = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = [node.body[0] for node in ast.walk(tree) if isinstance(node, documents) and ast.get_docstring(node)]
    lines = {number for node in docstrings for number in range(node.lineno, node.end_lineno + 1)}
    code = enumerate(text.splitlines(), 1)
    return [number for number, line in code if number not in lines and re.match(r"\s*[^#\s]", line)]


# What a file looks like -----------------------------------------------------------------------------------------------


def test_all_are_there():
    assert list(map(number, TUTORIALS)) == sorted(LIMITS)


@every
def test_the_first_cell_says_what_for(path):
    first = cells(path, "markdown")[0].source
    assert re.match(r"# \w+ ", first)
    for word in ("Question", "You will do", "You will learn", "You need"):
        assert f"**{word}:**" in first, word


def test_the_method_on_one_page_is_one_page():
    assert len(numbers_of_code(TUTORIALS[0].read_text())) < 120


@every
def test_a_figure_comes_early(path):
    text = path.read_text()
    first = next(line for line, words in enumerate(text.splitlines(), 1) if re.search(DRAWS, words))
    assert len([line for line in numbers_of_code(text) if line < first]) <= 40


@every
def test_notebooks_and_back(path):
    text = path.read_text()
    assert jupytext.writes(jupytext.reads(jupytext.writes(notebook(path), "ipynb"), "ipynb"), "py:percent").endswith(
        text.rstrip("\n") + "\n"
    )


#: Calls that may end a cell: what they return is not shown below it.
QUIET = {
    "print", "show", "assert_allclose", "assert_array_equal", "set_label", "set_axis_off", "grid", "invert_yaxis"
}  # fmt: skip


@every
def test_cells_end_without_a_value(path):
    """A notebook shows the value of the last line: a list of texts below a figure, for example."""
    quiet = QUIET | {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    for cell in cells(path, "code"):
        last = ast.parse(cell.source).body[-1]
        if isinstance(last, ast.Expr):
            assert isinstance(last.value, ast.Call), ast.unparse(last)
            assert ast.unparse(last.value.func).rpartition(".")[2] in quiet, ast.unparse(last)


@every
def test_hints_and_hidden_solutions(path):
    text = path.read_text()
    exercises = re.findall(r"^check_(\w+) = Exercise\(", text, re.MULTILINE)
    assert len(exercises) >= (0 if number(path) == "00" else 2)
    assert len(re.findall("<summary>Hint</summary>", text)) == len(exercises)
    hidden = [cell.source for cell in cells(path, "code") if "hide-cell" in cell.metadata.get("tags", [])]
    for name in exercises:
        assert f"def {name}(" in text
        assert any(f"def {name}_solution(" in source and f"check_{name} = " in source for source in hidden)
        assert re.search(rf"^print\(check_{name}\({name}\)\)$", text, re.MULTILINE)


# Formulas and figures -------------------------------------------------------------------------------------------------


def marks(path, kind):
    """Return the marks ``# kind: name`` of a tutorial, with the code of their cells."""
    return [
        (name, cell.source)
        for cell in cells(path, "code")
        for name in re.findall(rf"^# {kind}: ([\w-]+)$", cell.source, re.MULTILINE)
    ]


def listed(kind):
    """Return the marks that the tables of docs/formulas.md ask for: pairs of a tutorial's number and a name."""
    table = {"formula": "| formula |", "figure": "| subject |"}[kind]
    rows = (ROOT / "docs" / "formulas.md").read_text().partition(table)[2].partition("\n\n")[0]
    links = re.findall(r"\[(\w+)\]\(\.\./tutorials/\w+\.py\) ([\w, -]+)", rows)
    return sorted((no, name) for no, names in links for name in names.strip().split(", "))


@pytest.mark.parametrize("kind, least", [("formula", 64), ("figure", 47)])
def test_all_formulas_and_subjects_are_covered(kind, least):
    found = sorted({(number(path), name) for path in TUTORIALS[1:] for name, _ in marks(path, kind)})
    assert found == listed(kind)
    assert len(found) >= least


@every
def test_formulas_are_asserted_where_they_are_written(path):
    """In the cell of the formula, or in the next one."""
    asserting = {"assert_allclose", "assert_array_equal", *functions_that_assert(path)}
    sources = [cell.source for cell in cells(path, "code")]
    for source, after in zip(sources, [*sources[1:], ""]):
        if found := re.findall(r"^# formula: ([\w-]+)$", source, re.MULTILINE):
            nodes = list(ast.walk(ast.parse(f"{source}\n{after}")))
            calls = {ast.unparse(node.func).rpartition(".")[2] for node in nodes if isinstance(node, ast.Call)}
            assert any(isinstance(node, ast.Assert) for node in nodes) or calls & asserting, found


def functions_that_assert(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and any(isinstance(inner, ast.Assert) for inner in ast.walk(node)):
            yield node.name


@every
def test_formulas_stand_in_the_prose_before_their_code(path):
    """The number of displayed formulas so far is never below the number of cells that have marked formulas."""
    displayed = coded = 0
    for cell in notebook(path).cells:
        displayed += cell.source.count("$$") // 2 if cell.cell_type == "markdown" else 0
        coded += bool(re.search(r"^# formula: ", cell.source, re.MULTILINE))
        assert coded <= displayed, cell.source


@every
def test_figures_are_drawn_where_they_are_marked_and_explained(path):
    for name, source in marks(path, "figure"):
        assert re.search(r"\b(plt|plots|fig\w*|ax\w*)\b", source), name
    figures = [cell.source for cell in cells(path, "code") if re.search(DRAWS, cell.source)]
    assert path.read_text().count("*See:*") >= len(figures) > 0


# What may be used when ------------------------------------------------------------------------------------------------


def library_names(tree):
    """Yield the dotted names of npvae that a tutorial uses."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    inner = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and node not in inner:
            name = ast.unparse(node)
            head, dot, rest = name.partition(".")
            if re.fullmatch(r"[\w.]+", name) and known.get(head, "").partition(".")[0] == "npvae":
                yield known[head] + dot + rest


def first_use(name):
    """Return the number of the first tutorial that may use a name of the library."""
    parts = name.split(".")
    known = [".".join(parts[:length]) for length in range(len(parts), 1, -1)]
    return next((FIRST_USE[part] for part in known if part in FIRST_USE), None)


@pytest.mark.parametrize("path", TUTORIALS[1:], ids=number)
def test_nothing_is_used_before_it_was_written_by_hand(path):
    """The page "00" writes everything, and compares it with the library at its end."""
    for name in sorted(set(library_names(ast.parse(path.read_text())))):
        assert first_use(name) is not None, f"{name} is not in the ledger"
        assert number(path) >= first_use(name), f"{name} is written by hand in tutorial {first_use(name)}"


def test_the_ledger_has_no_names_that_nobody_uses():
    used = {name for path in TUTORIALS for name in library_names(ast.parse(path.read_text()))}
    assert not [name for name in FIRST_USE if not any(f"{other}.".startswith(f"{name}.") for other in used)]


# What a run says ------------------------------------------------------------------------------------------------------

runs = pytest.mark.slow(reason="runs a tutorial")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return a function that runs a tutorial once, and says what came of it."""
    folder, reports = tmp_path_factory.mktemp("tutorials"), {}

    def of(path):
        if path not in reports:  # what a run takes varies with the machine; four times the limit is a fault
            thumbnail = folder / f"{number(path)}.png"
            reports[path] = overview.run(path, thumbnail, timeout=4 * LIMITS[number(path)])
            assert thumbnail.exists(), "no figure has the label thumbnail"
        return reports[path]

    return of


@runs
@pytest.mark.process
@every
def test_it_runs_and_the_overview_has_its_answer(path, report):
    page = (ROOT / "tutorials" / "README.md").read_text(encoding="utf-8")
    assert overview.entries(page)[number(path)] == overview.entry(path, report(path))
    assert (ROOT / "tutorials" / "thumbnails" / f"{number(path)}.png").stat().st_size > 1000


#: What is taken out of prose before its numbers are looked for: formulas, code, links, tags; sections of the paper.
NOT_PROSE = r"\$\$.*?\$\$|\$[^$]+\$|`[^`]+`|\]\([^)]*\)|<[^>]+>|arXiv[: ][\d.]+|[Ss]ections? [\d.]+|Appendix [A-Z.\d]+"
NUMBER = r"(?<![\w.])(\d+\.\d+|\d+(?= ?(?:nats?\b|%|times\b)))"


@runs
@pytest.mark.process
@every
def test_numbers_in_the_prose_are_printed(path, report):
    printed = report(path)["printed"]
    for cell in cells(path, "markdown"):
        prose = re.sub(NOT_PROSE, " ", cell.source, flags=re.DOTALL)
        for value in re.findall(NUMBER, prose):
            assert re.search(rf"(?<![\d.]){re.escape(value)}(?!\d|\.\d)", printed), f"{value} is not printed: {prose}"


@runs
@pytest.mark.process
@every
def test_exercises_know_right_from_wrong(path, report):
    """The solution and the mistakes are tried when an exercise is made."""
    for name, said in report(path)["exercises"].items():
        assert said["stub"] == "not written yet", name
        assert said["zeros"].startswith("not yet: "), name
        assert said["mistakes"] >= 2, name


@runs
@pytest.mark.process
@every
def test_figures_have_named_axes(path, report):
    figures = report(path)["figures"]
    assert [label for label, _ in figures].count("thumbnail") == 1
    for label, axes in figures:
        for names in axes:
            assert names is None or any(names), f"a figure {label!r} has an axis without a name"


@pytest.mark.parametrize("line", ["assert 1 + 1 == 3", "1 / 0", "import warnings; warnings.warn('careful')"])
def test_a_tutorial_that_fails_is_seen(tmp_path, line):
    path = tmp_path / "00_fail.py"
    path.write_text(f"# %%\n{line}\n")
    with pytest.raises(RuntimeError, match=r"00_fail.py fails:\n(.|\n)*Error|Warning"):
        overview.run(path, tmp_path / "00.png")
