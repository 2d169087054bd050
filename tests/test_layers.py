"""The structure: a file imports only from layers below its own, nothing in a circle, and the top stays light."""

import ast
import graphlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import npvae

ROOT = Path(npvae.__file__).parent

#: Bottom to top. The name of a package stands for all files in it that have no entry of their own; these may import
#: each other as long as there is no circle. All other imports lead to a lower layer. "npvae" is npvae/__init__.py.
LAYERS = (
    ("conventions", "description", "modelfile", "parameters", "progress", "schema", "sparse", "version"),
    ("parallel",),
    ("table",),
    ("backends",),
    ("cluster",),
    ("distributions", "likelihoods", "nn", "noise", "optimizers"),
    ("inference", "preprocessing", "weight_posterior"),
    ("model", "samplers"),
    ("estimators",),
    ("fitted", "settings", "training"),
    ("checks", "evaluation", "fitting"),
    ("conditional",),
    ("persistence",),
    ("vae",),
    ("selection",),
    ("datasets", "exercises", "plots"),  # only what stands on top of the library imports them
    ("npvae",),
    ("bench", "reproduce"),
    ("cli",),
    ("__main__",),
)

#: They import nothing of npvae but their own files, and the checks of arguments.
LEAVES = ("datasets", "exercises", "plots")

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


# The graph ------------------------------------------------------------------------------------------------------------


def files_by_name(root):
    """Return every file below the package's folder by its dotted name: "npvae", "backends", "backends.cpu", ..."""
    names = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "npvae"] = path
    return names


def imports_of(path, root, names):
    """Yield the names of the files of the package that a file imports, in functions too.

    Importing ``a.b`` runs ``a/__init__.py`` first, so that counts as well, unless the file is itself in ``a``.
    """
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + tuple((node.module or "").split("."))
            base = tuple(part for part in base if part)
            for alias in node.names:
                module = ".".join((*base, alias.name))
                target = module if module in names else ".".join(base) or "npvae"
                assert target in names, f"{path}:{node.lineno} imports {target}, which is not there"
                yield target
                parts = target.split(".")
                parents = (parts[:n] for n in range(1, len(parts)))
                yield from (".".join(parent) for parent in parents if tuple(parent) != package[: len(parent)])
        elif isinstance(node, ast.ImportFrom | ast.Import):
            imported = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name.split(".")[0] == "npvae" for name in imported), f"{path}: use relative imports"


def import_graph(root):
    """Return the files that each file imports, as a dict of sets of names."""
    names = files_by_name(root)
    return {name: set(imports_of(path, root, names)) for name, path in names.items()}


def find_circle(graph):
    """Return the names of files that import each other in a circle, or an empty list."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def entry_of(name):
    """Return the entry of `LAYERS` that a file belongs to: its own, or that of the nearest package around it."""
    parts = name.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in LEVEL), None)


def wrong_arrows(graph):
    """List the imports that do not lead to a lower layer; files that have no layer are left out."""
    wrong = []
    for name, imported in graph.items():
        own = entry_of(name)
        for other in sorted(imported):
            entry = entry_of(other)
            leaf = own in LEAVES and entry != "conventions"
            if None not in (own, entry) and own != entry and (leaf or LEVEL[entry] >= LEVEL[own]):
                wrong.append(f"{name} imports {other}")
    return wrong


@pytest.fixture(scope="module")
def graph():
    return import_graph(ROOT)


@pytest.fixture
def copy(tmp_path):
    """A copy of the package, to plant errors in."""
    return Path(shutil.copytree(ROOT, tmp_path / "npvae", ignore=shutil.ignore_patterns("__pycache__")))


def test_every_file_has_a_layer(graph):
    unknown = sorted(name for name in graph if entry_of(name) is None)
    empty = sorted(set(LEVEL) - {entry_of(name) for name in graph})
    assert not unknown + empty, f"files without a layer: {unknown}; entries without a file: {empty}"


def test_no_circle_between_files(graph):
    circle = find_circle(graph)
    assert not circle, " <- ".join(circle)


def test_imports_point_downwards(graph):
    wrong = wrong_arrows(graph)
    assert not wrong, "\n".join(wrong)


def test_graph_of_a_small_package(tmp_path):
    """Each form of import, in a function or not, is an arrow to the file it loads."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for path, source in {
        "__init__.py": "from .top import f",
        "top.py": "from . import a\nfrom .a import one, function\ndef f():\n    from .b.three import g",
        "low.py": "import numpy, math.npvae",
        "a/__init__.py": "from .one import h",
        "a/one.py": "from . import two\nfrom .two import x",
        "a/two.py": "from .. import low\nfrom ..low import y",
        "b/__init__.py": "",
        "b/three.py": "class A:\n    def f(self):\n        from ..a import one, h",
    }.items():
        (tmp_path / path).write_text(source)
    assert import_graph(tmp_path) == {
        "npvae": {"top"},
        "top": {"a", "a.one", "b", "b.three"},
        "low": set(),
        "a": {"a.one"},
        "a.one": {"a.two"},
        "a.two": {"low"},
        "b": set(),
        "b.three": {"a", "a.one"},
    }


def test_a_circle_planted_inside_a_package_is_seen(graph, copy):
    inside = [
        (name, other)
        for name, imported in graph.items()
        for other in sorted(imported)
        if "." in name and "." in other and name.rpartition(".")[0] == other.rpartition(".")[0]
    ]
    assert inside
    name, other = inside[0]
    with files_by_name(copy)[other].open("a") as file:
        file.write(f"\n\ndef planted():\n    from . import {name.rpartition('.')[2]}\n")
    assert {name, other} <= set(find_circle(import_graph(copy)))


def test_a_planted_upward_arrow_is_seen(copy):
    with (copy / "parameters.py").open("a") as file:
        file.write("\n\ndef planted():\n    from .vae import VAE\n")
    assert "parameters imports vae" in wrong_arrows({"parameters": import_graph(copy)["parameters"]})
    with (copy / "plots.py").open("a") as file:
        file.write("\nfrom . import parameters\n")
    assert wrong_arrows({"plots": import_graph(copy)["plots"]}) == ["plots imports parameters"]


# Names ----------------------------------------------------------------------------------------------------------------


def shadowed_modules(root):
    """List the modules that cannot be reached by their name, since their package gives it to something else."""
    names = files_by_name(root)
    shadowed = []
    for package, path in names.items():
        if path.name != "__init__.py":
            continue
        prefix = "" if package == "npvae" else f"{package}."
        bound = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                bound.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                bound |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
            elif isinstance(node, ast.ImportFrom) and not (node.level == 1 and node.module is None):
                bound |= {alias.asname or alias.name for alias in node.names}
        shadowed += [prefix + name for name in sorted(bound) if prefix + name in names]
    return shadowed


def test_no_function_has_the_name_of_a_module_beside_it():
    shadowed = shadowed_modules(ROOT)
    assert not shadowed, "\n".join(shadowed)


def test_a_planted_name_of_a_module_is_seen(copy):
    before = shadowed_modules(copy)
    with (copy / "__init__.py").open("a") as file:
        file.write("\nfrom .training import Epoch as training\nfrom . import model\n")
    with (copy / "backends" / "__init__.py").open("a") as file:
        file.write("\n\ndef reference():\n    pass\n")
    assert set(shadowed_modules(copy)) - set(before) == {"training", "backends.reference"}


def private_names(root):
    """Return the private methods and attributes of VAE and of the class it inherits from."""
    names = set()
    for file, cls in ("vae.py", "VAE"), ("conventions.py", "SklearnEstimator"):
        (body,) = (node for node in ast.parse((root / file).read_text()).body if getattr(node, "name", None) == cls)
        for node in ast.walk(body):
            if isinstance(node, ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                names.add(node.attr)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def uses_of_private_names(root):
    """List where other files use them: on anything but a ``self`` or ``cls`` of a class of their own."""
    names, uses = private_names(root), []
    for path in sorted(root.rglob("*.py")):
        if path.name in ("vae.py", "conventions.py"):
            continue
        tree = ast.parse(path.read_text())
        own = {
            id(node)
            for cls in ast.walk(tree)
            if isinstance(cls, ast.ClassDef)
            for node in ast.walk(cls)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        }
        for node in ast.walk(tree):
            name = (
                node.attr if isinstance(node, ast.Attribute) else node.value if isinstance(node, ast.Constant) else ""
            )
            if isinstance(name, str) and name in names and id(node) not in own:
                uses.append(f"{path.relative_to(root)}:{node.lineno} {name}")
    return uses


def test_private_methods_of_vae_are_called_in_its_file_alone():
    uses = uses_of_private_names(ROOT)
    assert not uses, "\n".join(uses)


def test_a_planted_call_of_a_private_method_is_seen(copy):
    name = sorted(private_names(copy))[0]
    before = uses_of_private_names(copy)
    with (copy / "plots.py").open("a") as file:
        file.write(f"\n\ndef planted(model):\n    return model.{name}, getattr(model, '{name}')\n")
        file.write(f"\n\nclass Own:\n    def planted(self):\n        return self.{name}\n")
    assert len(set(uses_of_private_names(copy)) - set(before)) == 1  # both are on one line
    assert len(uses_of_private_names(copy)) == len(before) + 2


# The top --------------------------------------------------------------------------------------------------------------


def python(code):
    """Run code in a fresh interpreter and return what it prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_import_is_light():
    """``import npvae`` loads no plotting, no compiler and no statistics; the compiler comes with the first fit."""
    heavy = "matplotlib", "numba", "scipy.sparse", "scipy.stats", "npvae.datasets", "npvae.plots"
    assert python(f"import sys, npvae; print([name for name in {heavy} if name in sys.modules])") == "[]"


PUBLIC = ["VAE", "check_gradient", "datasets", "distributions", "exercises", "fit", "gradcheck", "load", "plots"]


def test_dir_lists_what_users_call():
    assert python("import npvae; print([name for name in dir(npvae) if not name.startswith('__')])") == str(PUBLIC)
    assert sorted(npvae.__all__) == sorted([*PUBLIC, "__version__"])
    assert "__version__" in dir(npvae) and "__doc__" in dir(npvae)
    assert [name for name in dir(npvae) if name.startswith("_") and not name.endswith("__")] == []


@pytest.mark.parametrize("name", ["datasets", "distributions", "exercises", "plots"])
def test_packages_are_found_on_first_use(name):
    assert python(f"import npvae; print(npvae.{name}.__name__)") == f"npvae.{name}"


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="module 'npvae' has no attribute 'fitt'"):
        npvae.fitt  # noqa: B018
