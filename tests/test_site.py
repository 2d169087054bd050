"""What the site is made of: every page is in a list of pages, and every public module has its place in the API.

The site itself is built and looked at by `.ci/run`.
"""

import re
from pathlib import Path

from test_doctests import INTERNAL, MODULES

DOCS = Path(__file__).parents[1] / "docs"


def listed(page):
    """Return the pages that a page lists in its toctrees, and what these list; with a glob, what is there."""
    lists = re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL)
    entries = [line for text in lists for line in text.splitlines() if line and not line.startswith(":")]
    names = [re.sub(r".*<(.*)>", r"\1", entry) for entry in entries]
    pages = [path for name in names for path in sorted(page.parent.glob(f"{name}.md"))]
    return pages + [inner for path in pages for inner in listed(path)]


def test_every_page_is_listed_once():
    pages = [path for path in DOCS.rglob("*.md") if path.relative_to(DOCS).parts[0] not in ("_build", "tutorials")]
    found = [path for path in listed(DOCS / "index.md") if path.parent.name != "tutorials"]
    assert len(found) > 40 and sorted([*found, DOCS / "index.md"]) == sorted(pages)


def test_every_public_module_has_its_place_in_the_api():
    text = "".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md")))
    documented = re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE)
    public = {name for name in MODULES if not name.startswith(INTERNAL)} - {"npvae.version"}
    assert len(documented) == len(set(documented)) and public <= set(documented), public - set(documented)
