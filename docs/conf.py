"""The site: `python -m sphinx -W -n --keep-going docs docs/_build/html`. CONTRIBUTING.md says how to add a page.

The tutorials are copied from the folder beside this one, executed and rendered. Their results are kept in
`_build/executed` until the package, the tutorial or a library below it changes.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import jupytext

import npvae

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for the extension `sourcelinks`

project, author, version = "npvae", "The npvae developers", npvae.__version__
release, copyright = version, author
html_title = f"npvae {version}"

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sourcelinks"]
exclude_patterns = ["_build", "*.py", "tutorials/notebooks"]
nitpicky = True

# Pages in Markdown ----------------------------------------------------------------------------------------------------

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# The tutorials: copied, executed, to be downloaded ------------------------------------------------------------------

DOWNLOADS = (
    "Download: {{download}}`notebook <notebooks/{name}.ipynb>`, {{download}}`script <../../tutorials/{name}.py>`"
)

#: The settings of IPython, which executes them.
KERNEL = """
c.InteractiveShell.ast_node_interactivity = "none"  # a cell shows what it prints and draws, not what it returns
c.InlineBackend.rc = {"figure.dpi": 144}  # sharp on screens of two pixels to the point
c.IPKernelApp.log_level = "ERROR"
"""


def write(path, text):
    """Write a file, unless it is the same already: Sphinx reads again what is newer than its page."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def as_page(notebook, name):
    """Return the script of a tutorial with its number in the title, and links to download it below the first cell."""
    first = notebook.cells[0]
    title = re.sub("^# ", f"# {name.partition('_')[0].upper()}. ", first.source)
    first.source = f"{title}\n\n{DOWNLOADS.format(name=name)}"
    return jupytext.writes(notebook, "py:percent")


def as_notebook(text):
    """Return the script of a tutorial as a notebook, with folded solutions."""
    notebook = jupytext.reads(text, "py:percent")
    for cell in notebook.cells:
        if "hide-cell" in cell.metadata.get("tags", []):
            cell.metadata["jupyter"] = {"source_hidden": True}
    return jupytext.writes(notebook, "ipynb")


def copy_tutorials(source, target):
    """Write pages and notebooks of all tutorials, and remove those of tutorials that are gone."""
    names = sorted(path.stem for path in source.glob("*.py"))
    for name in names:
        text = (source / f"{name}.py").read_text()
        write(target / "notebooks" / f"{name}.ipynb", as_notebook(text))
        write(target / f"{name}.py", as_page(jupytext.reads(text, "py:percent"), name))
    write(target / "README.md", (source / "README.md").read_text())
    shutil.copytree(source / "thumbnails", target / "thumbnails", dirs_exist_ok=True)
    for path in [*target.glob("*.py"), *target.glob("notebooks/*.ipynb")]:
        if path.stem not in names:
            path.unlink()


def fingerprint():
    """Return a hash of what the results of a tutorial depend on, beside the tutorial itself."""
    digest = hashlib.sha256((sys.version + KERNEL).encode())
    for path in sorted((HERE.parent / "npvae").rglob("*.py")):
        digest.update(path.read_bytes())
    for name in ("numpy", "scipy", "matplotlib", "numba"):
        digest.update(importlib.metadata.version(name).encode())
    return digest.hexdigest()[:16]


copy_tutorials(HERE.parent / "tutorials", HERE / "tutorials")

nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "executed" / fingerprint())
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120  # seconds a cell
nb_merge_streams = True
os.environ["IPYTHONDIR"] = str(HERE / "_build" / "ipython")
write(HERE / "_build" / "ipython" / "profile_default" / "ipython_kernel_config.py", KERNEL)

# The API ------------------------------------------------------------------------------------------------------------

default_role = "code-name"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # docstrings state shapes and units, of which annotations know nothing
python_maximum_signature_line_length = 88
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# HTML ---------------------------------------------------------------------------------------------------------------

html_theme = "furo"
pygments_dark_style = "a11y-dark"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sphinx = False
templates_path: list[str] = []

mathjax_path = "mathjax/tex-chtml.js"


def copy_mathjax(app, exception):
    """Copy the one program and the fonts that the pages use, of a package that has all of MathJax."""
    if exception is None and app.builder.format == "html":
        package = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations[0]
        source, target = Path(package) / "static" / "mathjax", Path(app.outdir) / "_static" / "mathjax"
        fonts = Path("output", "chtml", "fonts")
        shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
        shutil.copy(source / "tex-chtml.js", target)


def link_copies(app, name, source):
    """Let links to the tutorials lead to their pages."""
    source[0] = source[0].replace("](../tutorials/", "](tutorials/")


def setup(app):
    app.connect("source-read", link_copies)
    app.connect("build-finished", copy_mathjax)
