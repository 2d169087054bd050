"""Check the built site: `python docs/check_site.py`, after the build; `--screenshots FOLDER` takes pictures, too.

First all links within the site, with their anchors, and that nothing is loaded from elsewhere. Then each page in a
browser without a window, `chromium` of the system: it must load without an error, with its figures and formulas, must
not be wider than the screen of a phone or of a laptop, and its text must stand out from its background by day and by
night (WCAG's ratio of contrast). The search must find something.
"""

import argparse
import functools
import http.server
import re
import shutil
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

from playwright.sync_api import sync_playwright

SITE = Path(__file__).parent / "_build" / "html"

#: Widths in pixels of a laptop and of a phone.
WIDTHS = (1280, 390)

#: Pages to take pictures of.
PICTURES = ("index", "tutorials/README", "api/distributions", "formulas", "uses", "results", "gallery", "search")

#: What is wrong with a page, in the page.
PROGRAM = Path(__file__).with_suffix(".js").read_text()


# Links --------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The links of a page, its anchors, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors, self.loads = set(), {"", "top"}, set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):  # noqa: D102 - of HTMLParser
        found = dict(attributes)
        self.anchors.update(found[key] for key in ("id", "name") if found.get(key))
        if tag == "a" and "href" in found:
            self.links.add(found["href"])
        elif tag in ("img", "script", "link", "source", "iframe"):
            self.loads.update(found[key] for key in ("src", "href") if found.get(key))


def broken_links(site):
    """Yield what links to nothing, and what is loaded from elsewhere."""
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html")}
    for path, page in pages.items():
        name = path.relative_to(site)
        for link in page.links | page.loads:
            address = urlparse(link)
            if address.scheme or address.netloc:
                if link in page.loads and address.scheme != "data":
                    yield f"{name}: loads {link}"
                continue
            target, anchor = urldefrag(urljoin(path.as_uri(), link))
            file = Path(unquote(urlparse(target).path))
            if not file.is_file() or not file.is_relative_to(site):
                yield f"{name}: no file {link}"
            elif file in pages and unquote(anchor) not in pages[file].anchors:
                yield f"{name}: no anchor {link}"
    table = (site / "formulas.html").read_text().split("</table>")[0].split("<tr", 2)[2]
    for row in table.split("<tr"):
        if not re.search(r'href="api/|href="source/npvae', row) or 'href="source/tests' not in row:
            yield f"formulas.html: a row does not lead to its function and its test: {row[:200]}"
    print(f"{len(pages)} pages, {sum(len(page.links) for page in pages.values())} links")


# In a browser -------------------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *arguments):  # noqa: D102 - of its base class
        pass


def serve(site):
    """Serve a folder in the background, and return its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def listen(tab, said):
    """Have a tab put its errors, and requests that fail or go elsewhere, into a list."""
    tab.on("console", lambda message: said.append(f"console: {message.text}") if message.type == "error" else None)
    tab.on("pageerror", lambda error: said.append(f"error: {error}"))
    tab.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
    tab.on("response", lambda answer: said.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)
    tab.on("request", lambda r: None if "//127.0.0.1:" in r.url or r.url[:5] == "data:" else said.append(f"to {r.url}"))


def look_at(tab, address, said):
    """Load a page, and yield what is wrong with it."""
    tab.emulate_media(color_scheme="light")
    tab.set_viewport_size({"width": WIDTHS[0], "height": 800})
    tab.goto(address, wait_until="load")
    tab.evaluate(PROGRAM)
    yield from tab.evaluate("look()")
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 800})
        yield from tab.evaluate("width()")
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        yield from (f"{scheme}: {what}" for what in tab.evaluate("contrast()"))
    yield from said
    said.clear()


def search(tab, address, word):
    """Yield an error unless the site's search finds a word."""
    tab.goto(f"{address}/search.html?q={word}")
    try:
        tab.wait_for_selector("#search-results li a", timeout=20_000)
    except Exception as error:
        yield f"search finds nothing for {word}: {error}"


def take_pictures(tab, address, folder, names):
    """Save pictures of pages at both widths, by day and by night."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            for width in WIDTHS:
                tab.set_viewport_size({"width": width, "height": 900})
                tab.goto(f"{address}/{name}.html" + "?q=reparameterization" * (name == "search"))
                tab.evaluate(f"{PROGRAM}; look()")
                tab.wait_for_timeout(500)
                tab.screenshot(path=folder / f"{name.replace('/', '-')}-{width}-{scheme}.png")


def main():
    """Check, say what is wrong, and end with status 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, nargs="?", default=SITE)
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", metavar="PAGE", help="names of pages, such as api/plots")
    options = parser.parse_args()
    site = options.site.resolve()
    wrong = list(broken_links(site))
    names = options.only or sorted(str(p.relative_to(site).with_suffix("")) for p in site.rglob("*.html"))
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        sys.exit("no browser: install Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        address, tab, said = serve(site), browser.new_page(), []
        listen(tab, said)
        for name in names:
            wrong += [f"{name}: {what}" for what in look_at(tab, f"{address}/{name}.html", said)]
        wrong += search(tab, address, "reparameterization")
        if options.screenshots:
            tutorials = [f"tutorials/{path.stem}" for path in sorted(site.glob("tutorials/[0-9]*.html"))[:3]]
            take_pictures(tab, address, options.screenshots, options.only or [*PICTURES, *tutorials])
        browser.close()
    print(*wrong, f"{len(names)} pages looked at, {len(wrong)} things wrong", sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
