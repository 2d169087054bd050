"""A Sphinx extension: names of the code and of files, as pages and docstrings write them, become links.

- `npvae.x.y` leads to its entry in the API reference, or to its source if it has none;
- `tests/test_x.py::test_y`, `npvae/x.py` and other files lead to pages with their source;
- each entry of the API has a link to its source, and each field of a tuple the comment beside it;
- names of marks beside a link to a tutorial lead to the cell that has the mark;
- constants of the API are shown without long values;
- in a docstring, single backquotes may shorten a name as the code around it would (the role `code-name`).
"""

import ast
import importlib
import inspect
import re
import sys
import textwrap
import tokenize
from functools import cache
from pathlib import Path

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import BashLexer, IniLexer, PythonLexer
from sphinx import addnodes
from sphinx.util.inspect import stringify_signature

ROOT = Path(__file__).parents[1]

#: Folders from which pages name files.
FOLDERS = [ROOT, ROOT / "docs", ROOT / "npvae", ROOT / "npvae" / "backends"]

#: Files that have a page with their source.
SOURCES = ["npvae/**/*.py", "tests/**/*.py", "tutorials/*.py", "docs/*.py", "setup.cfg", ".ci/run"]

#: What a cell of a tutorial is about.
MARK = re.compile(r"^# (figure|formula): ([\w-]+)$", re.MULTILINE)

LEXERS = {".py": PythonLexer(), ".cfg": IniLexer(), "": BashLexer()}

NAME = re.compile(r"(npvae(?:\.\w+)+)(?:\(.*\))?")
FILE = re.compile(r"([\w./-]+)(?:::(\w+))?")


# What names stand for -----------------------------------------------------------------------------------------------


@cache
def resolve(name):
    """Return (module, thing) of a dotted name, or None: thing is a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module_name = ".".join(parts[:length])
        try:
            thing = module = importlib.import_module(module_name)
        except ImportError:
            continue
        try:
            for part in parts[length:]:
                thing = getattr(thing, part)
        except AttributeError:
            return None
        return module, thing
    return None


def candidates(name, module, owner):
    """Yield the full names that a short one may stand for in a docstring of `module`, or of its class `owner`."""
    modules = [module] if module else []
    if owner and (found := resolve(f"{module}.{owner}")):
        yield f"{module}.{owner}.{name}"
        modules.append(found[1].__module__)  # where its code is
    for place in modules:
        while place:
            yield f"{place}.{name}"
            place = place.rpartition(".")[0]
    yield name


def entries(env):
    """Return, by the identity of what is documented, where its entry is: (page, anchor)."""
    if not hasattr(env, "npvae_entries"):
        env.npvae_entries = found = {}
        for name, entry in env.domains.python_domain.objects.items():
            if (thing := resolve(name)) and not isinstance(thing[1], int | float | str | bytes | tuple | None):
                found.setdefault(id(thing[1]), (entry.docname, entry.node_id))
    return env.npvae_entries


def entry_of(env, name):
    """Return (page, anchor) of a full name, or None if the API has no entry for it."""
    if entry := env.domains.python_domain.objects.get(name):
        return entry.docname, entry.node_id
    found = resolve(name)
    return entries(env).get(id(found[1])) if found else None


def line_of(thing):
    """Return the file and the line where something is defined, or None."""
    try:
        thing = inspect.unwrap(thing.fget if isinstance(thing, property) else thing)
        return Path(inspect.getsourcefile(thing)), (0 if inspect.ismodule(thing) else inspect.getsourcelines(thing)[1])
    except (TypeError, OSError):
        return None


# Pages with sources -------------------------------------------------------------------------------------------------


@cache
def sources():
    """Return the files that have a page, with its name."""
    files = [path for pattern in SOURCES for path in ROOT.glob(pattern)]
    return {path: f"source/{path.relative_to(ROOT)}" for path in files}


def source_pages(app):
    """Yield the pages that are not there, or older than their file."""
    formatter = HtmlFormatter(lineanchors="line")
    for path, page in sources().items():
        built = Path(app.builder.get_outfilename(page))
        if not built.exists() or built.stat().st_mtime < path.stat().st_mtime:
            title, text = page.removeprefix("source/"), path.read_text()
            body = f"<h1>{title}</h1>\n{highlight(text, LEXERS[path.suffix], formatter)}"
            yield page, {"title": title, "body": body}, "page.html"


@cache
def lines_of(path):
    """Return the lines of the functions and classes of a file."""
    if path.suffix != ".py":
        return {}
    tree = ast.parse(path.read_text())
    return {node.name: node.lineno for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def source_uri(app, docname, path, line):
    """Return the address of a line of a source, as seen from a page, or None if the file has no page."""
    if page := sources().get(path):
        return app.builder.get_relative_uri(docname, page) + (f"#line-{line}" if line else "")
    return None


# Links --------------------------------------------------------------------------------------------------------------


def uri_of_name(app, docname, name):
    """Return the address of the entry of a full name, or of its source, or None."""
    if entry := entry_of(app.env, name):
        page, anchor = entry
        return app.builder.get_relative_uri(docname, page) + f"#{anchor}"
    found = resolve(name)
    place = (line_of(found[1]) or line_of(found[0])) if found else None
    return source_uri(app, docname, *place) if place else None


def uri_of_file(app, docname, name, function):
    """Return the address of the page of a file, or of a function in it, or None."""
    for folder in FOLDERS:
        path = (folder / name).resolve()
        if path.suffix == ".md" and path.exists() and path.is_relative_to(app.srcdir):
            page = path.relative_to(app.srcdir).with_suffix("").as_posix()
            return app.builder.get_relative_uri(docname, page) if page in app.env.found_docs else None
        if path in sources():
            return source_uri(app, docname, path, lines_of(path).get(function))
    return None


def uri_of(app, docname, literal):
    """Return the address of what a piece of code names, or None."""
    text = literal.astext()
    if "module" in literal:  # of a docstring
        for name in candidates(text, literal["module"], literal["owner"]):
            if NAME.fullmatch(name) and resolve(name) and (uri := uri_of_name(app, docname, name)):
                return uri
        return None
    if match := NAME.fullmatch(text):
        return uri_of_name(app, docname, match[1])
    if match := FILE.fullmatch(text):
        return uri_of_file(app, docname, match[1], match[2])
    return None


def link(app, doctree, docname):
    """Make names links, and add to each entry of the API one to its source."""
    for literal in list(doctree.findall(nodes.literal)):
        inside = isinstance(literal.parent, nodes.reference | nodes.title | addnodes.download_reference)
        if not inside and (uri := uri_of(app, docname, literal)):
            reference = nodes.reference("", "", internal=True, refuri=uri)
            literal.replace_self(reference)
            reference += literal
    for signature in doctree.findall(addnodes.desc_signature):
        found = resolve(f"{signature.get('module')}.{signature.get('fullname')}")
        place = line_of(found[1]) if found else None
        if place and (uri := source_uri(app, docname, *place)):
            only = nodes.reference("", "[source]", internal=True, refuri=uri, classes=["source"])
            signature += only


def link_marks(app, doctree, docname):
    """Make the names of marks beside a link to a tutorial lead to the cell with the mark, as `# formula: prior`."""
    for reference in list(doctree.findall(nodes.reference)):
        page = reference.get("refuri", "")
        path = ROOT / page.replace(".html", ".py")
        beside = reference.next_node(descend=False, siblings=True)
        if path not in sources() or not isinstance(beside, nodes.Text) or not (names := re.findall(r"[\w-]+", beside)):
            continue
        marks = dict(map(reversed, MARK.findall(path.read_text())))
        links = [nodes.Text(" ")]
        for name in names:
            anchor = f"{page}#{marks.get(name, 'formula')}-{name}"
            links += [nodes.reference("", name, internal=True, refuri=anchor), nodes.Text(", ")]
        beside.parent.replace(beside, links[:-1])


def code_name(name, rawtext, text, lineno, inliner, options=None, content=()):
    """Write text in single backquotes as code, and keep where it stands: `link` finds what it names."""
    context = inliner.document.settings.env.ref_context
    place = {"module": context.get("py:module"), "owner": context.get("py:class")}
    return [nodes.literal(rawtext, text, **place)], []


# What autodoc does not see ------------------------------------------------------------------------------------------


def signature(app, what, name, thing, options, given, returned):
    """Return the signature of a class that Python shows: autodoc takes that of `__new__`, if there is one."""
    if what == "class" and given and not issubclass(thing, Exception):
        return stringify_signature(inspect.signature(thing), show_annotation=False, show_return_annotation=False), None
    return None


def exported(thing):
    """Return the name under which a package of npvae exports a class or function, or None."""
    place = getattr(thing, "__module__", None) or ""
    while place := place.rpartition(".")[0]:
        package, name = sys.modules[place], getattr(thing, "__name__", "")
        if name in getattr(package, "__all__", ()) and getattr(package, name) is thing:
            return f"{place}.{name}"
    return None


def skip(app, what, name, thing, would_skip, options):
    """Skip what a package exports where it is defined, and the fields of tuples: their class lists them."""
    if type(thing).__name__ == "_tuplegetter":
        return True
    context = app.env.current_document.autodoc_module if hasattr(app.env, "current_document") else None
    if what == "module" and inspect.isclass(thing) | inspect.isfunction(thing) and (place := exported(thing)):
        return True if place != f"{context}.{name}" else None
    return None


@cache
def comments(path):
    """Return the comments of a file by line."""
    with tokenize.open(path) as file:
        tokens = tokenize.generate_tokens(file.readline)
        return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def fields(owner):
    """Yield the annotated fields of a class with the comment beside each."""
    if not (place := line_of(owner)):
        return
    path, start = place
    lines, _ = inspect.getsourcelines(owner)
    for node in ast.parse(textwrap.dedent("".join(lines))).body[0].body:
        if isinstance(node, ast.AnnAssign) and (said := comments(path).get(start - 1 + node.end_lineno)):
            yield node.target.id, said


def add_fields(app, what, name, thing, options, lines):
    """Add to the docstring of a class a section with its fields, if they have comments and there is none."""
    if what != "class" or not inspect.isclass(thing) or {"Attributes", "Parameters"} & set(lines):
        return
    if found := list(fields(thing)):
        lines += ["", "Attributes", "----------"]
        lines += [line for field, said in found for line in (field, f"    {said}")]


def join_types(app, what, name, thing, options, lines):
    """Join the lines of the type of a parameter, which numpydoc wants in one: the others are indented by 8."""
    joined = re.sub(r"(?m)^(\w+ : .*(?:\n {8}.*)+)", lambda match: re.sub(r"\n +", " ", match[1]), "\n".join(lines))
    lines[:] = joined.split("\n")


def tidy(app, doctree):
    """Remove long values of constants and what types a name stands for; make marks in cells of tutorials anchors."""
    for value in list(doctree.findall(addnodes.desc_annotation)):
        if value.astext().startswith(" = ") and len(value.astext()) > 40:
            value.parent.remove(value)
    for code in doctree.findall(nodes.literal_block):
        marks = dict.fromkeys(f"{kind}-{name}" for kind, name in MARK.findall(code.astext()))
        code.parent["ids"] += [mark for mark in marks if mark not in doctree.ids]
        doctree.ids.update(dict.fromkeys(marks, code.parent))
    for paragraph in list(doctree.findall(nodes.paragraph)):
        if isinstance(paragraph.parent, addnodes.desc_content) and paragraph.astext().startswith("alias of "):
            paragraph.parent.remove(paragraph)


def setup(app):
    """Register all of it."""
    app.add_role("code-name", code_name)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", join_types, priority=300)
    app.connect("autodoc-process-docstring", add_fields, priority=400)  # before numpydoc
    app.connect("doctree-read", tidy)
    app.connect("doctree-resolved", link)
    app.connect("doctree-resolved", link_marks)
    app.connect("env-updated", lambda app, env: env.found_docs)  # all pages show the same list of pages
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
