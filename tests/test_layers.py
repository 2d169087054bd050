"""The structure: a module imports only from layers below its own, and the top stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import npvae

ROOT = Path(npvae.__file__).parent

#: Bottom to top.
LAYERS = (
    ("conventions", "parameters", "preprocessing", "progress", "version"),
    ("backends",),
    ("distributions", "nn", "optimizers"),
    ("weights",),
    ("model",),
    ("estimators", "inference"),
    ("evaluation", "training", "gradcheck", "modelfile", "health"),
    ("persistence", "settings"),
    ("vae",),
    ("bench",),
    ("cli",),
)

#: They import nothing of npvae; only what stands on top of the library imports them.
LEAVES = ("datasets", "plots")

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports_of_npvae(path):
    """Yield the modules or packages right below npvae that a file imports."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + tuple((node.module or "").split("."))
            base = [part for part in base if part]
            yield from [base[0]] if base else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name.split(".")[0] == "npvae" for name in names), f"{path}: use relative imports"


def test_imports_point_downwards():
    seen = set()
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if name in ("__init__", "__main__"):
            continue
        seen.add(name)
        for imported in set(imports_of_npvae(path)) - {name, "__version__"}:
            if name in LEAVES:
                raise AssertionError(f"{path} imports {imported}, but imports nothing of npvae")
            if imported in LEAVES:
                assert LEVEL[name] > LEVEL["vae"], f"{path} imports {imported}, as only what stands on top may"
            else:
                assert LEVEL[imported] < LEVEL[name], f"{path} imports {imported}, which is not below {name}"
    assert seen == {*LEVEL, *LEAVES}


def test_import_is_light():
    """``import npvae`` loads no plotting, no compiler and no statistics; the compiler comes with the first fit."""
    heavy = "matplotlib", "numba", "scipy.stats", "npvae.datasets"
    code = f"import sys, npvae; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
