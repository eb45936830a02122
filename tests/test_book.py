"""The built book: no warning, every page whole, light, quiet and usable, every control alive.

What needs a browser is in `tools/look.py`; `python -m tools.book_report` prints the same as a table.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
import yaml
from PIL import Image

from tools import look, vendor

ROOT = Path(__file__).resolve().parents[1]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
REPOSITORY = CONFIG["repository"]["url"].removeprefix("https://github.com/")
ADDRESS = "https://{}.github.io/{}/".format(*REPOSITORY.split("/"))

WIDGET_PAGE, PLAIN_PAGE = 2_600_000, 1_300_000  # bytes, everything that a page loads, gzipped
SHIFT = 0.1  # cumulative layout shift while a page loads: up to here it counts as good
JUMP = 80  # pixels by which a figure may differ from the room kept for it, or from a taller fallback
LOADED_BY = {"stylesheet", "icon", "preload", "modulepreload", "manifest"}  # what <link> fetches


def entries(part: dict) -> Iterator[str]:
    """Yield the files that the table of contents names, at any depth."""
    if "file" in part or "root" in part:
        yield part.get("file") or part["root"]
    for key in ("parts", "chapters", "sections"):
        for inner in part.get(key, []):
            yield from entries(inner)


FILES = list(entries(yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))))
PAGES = [*(f"{name}.html" for name in FILES), "genindex.html", "search.html"]


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    try:
        return look.build(tmp_path_factory.mktemp("book"))
    except RuntimeError as error:
        pytest.fail(str(error))


class Links(HTMLParser):
    """Collects what a page loads by itself, where its links lead, and what its head says."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: set[str] = set()
        self.meta: dict[str, str] = {}
        self.canonical = self.language = ""
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value for key, value in attrs if value}
        self.ids.update(values[key] for key in ("id", "name") if key in values)
        if tag == "html":
            self.language = values.get("lang", "")
        elif tag == "meta":
            self.meta[values.get("name") or values.get("property", "")] = values.get("content", "")
        elif tag == "a" and "href" in values:
            self.linked.append(values["href"])
        elif tag == "link" and LOADED_BY & set(values.get("rel", "").split()):
            self.loaded.append(values["href"])
        elif tag == "link" and values.get("rel") == "canonical":
            self.canonical = values["href"]
        elif "src" in values:
            self.loaded.append(values["src"])
        if tag == "img":
            self.images.append(dict(attrs))


def links(page: Path) -> Links:
    found = Links()
    found.feed(page.read_text("utf8"))
    return found


def pages(book: Path) -> list[Path]:
    return [book / name for name in look.pages(book)]


# ---------------------------------------------------------------- the files


def test_every_chapter_is_a_page(book):
    assert {book / name for name in PAGES} <= set(pages(book))
    written = {p.stem for p in (ROOT / "chapters").iterdir() if p.suffix in (".md", ".ipynb")}
    assert written == {Path(name).name for name in FILES}, "a chapter is missing in _toc.yml"


def test_pages_load_only_files_of_the_book(book):
    for page in [*pages(book), book / "404.html"]:
        for address in links(page).loaded:
            parts = urlsplit(address)
            assert not parts.scheme or parts.scheme == "data", f"{page.name} loads {address}"
            assert not parts.netloc, f"{page.name} loads {address}"
            if not parts.scheme and parts.path:
                assert (page.parent / unquote(parts.path)).is_file(), f"{page.name}: {address}"


def test_links_inside_the_book_lead_somewhere(book):
    found = {page: links(page) for page in [*pages(book), book / "404.html"]}
    for page, here in found.items():
        for address in here.linked:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.is_file(), f"{page.name}: {address}"
            if parts.fragment and target in found:
                assert unquote(parts.fragment) in found[target].ids, f"{page.name}: {address}"


def test_style_sheets_load_only_files_of_the_book(book):
    for sheet in book.rglob("*.css"):
        outside = re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']*", sheet.read_text("utf8"))
        assert not outside, sheet.name


def test_notebooks_open_elsewhere(book):
    branch = CONFIG["repository"]["branch"]
    for file in FILES:
        if not (ROOT / f"{file}.ipynb").is_file():
            continue
        linked = links(book / f"{file}.html").linked
        assert f"https://colab.research.google.com/github/{REPOSITORY}/blob/{branch}/{file}.ipynb" in linked
        assert f"https://mybinder.org/v2/gh/{REPOSITORY}/{branch}?urlpath=lab/tree/{file}.ipynb" in linked


def test_pages_say_what_they_are(book):
    """Language, description, canonical address, and an image for those who pass a link on."""
    said = {}
    for file in FILES:
        page = links(book / f"{file}.html")
        assert page.language == "en"
        assert page.canonical == page.meta["og:url"] == f"{ADDRESS}{file}.html"
        assert page.meta["og:image"] == f"{ADDRESS}_static/social.jpg"
        said[file] = page.meta["description"]
    texts = [text for file, text in said.items() if not file.endswith(("references", "api"))]
    assert all(40 <= len(text) <= 202 for text in texts), "begin every chapter with a paragraph"
    assert len(set(texts)) == len(texts)
    with Image.open(book / "_static" / "social.jpg") as image:
        assert (
            f"{image.width} {image.height}" == f"{page.meta['og:image:width']} {page.meta['og:image:height']}"
        )


def test_images_have_a_size_and_a_text(book):
    """A size, so that nothing jumps when they arrive; a text for those who do not see them."""
    for file in FILES:
        for image in links(book / f"{file}.html").images:
            if "/_images/" in (image.get("src") or "") and image["src"].endswith(".png"):
                assert image.get("width"), f"{file}: {image['src']}"
                assert len(image.get("alt") or "") > 20, f"{file}: give {image['src']} an alternative text"


def test_sitemap_names_every_chapter(book):
    tree = ElementTree.fromstring((book / "sitemap.xml").read_text("utf8"))
    named = [node.text for node in tree.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")]
    assert sorted(named) == sorted(f"{ADDRESS}{file}.html" for file in FILES)


def test_dead_links_lead_to_every_chapter(book):
    """404.html is shown at any depth, so it names the folder that its links start from."""
    text = (book / "404.html").read_text("utf8")
    assert f'<base href="/{REPOSITORY.split("/")[1]}/"/>' in text
    assert {f"{file}.html" for file in FILES} <= set(links(book / "404.html").linked)


def test_the_live_detector_has_its_scripts(book):
    """Every notebook with one names the weights script that the book serves beside its code."""
    named = []
    for notebook in (ROOT / f"{file}.ipynb" for file in FILES):
        text = notebook.read_text("utf8") if notebook.is_file() else ""
        named += re.findall(r'"name": "([a-z]+-[0-9a-f]{12}\.js)"', text)
    assert len(named) >= 2
    assert {p.name for p in (book / "_static" / "live").iterdir()} == {"live.js", "teach.js", *named}


def test_vendored_scripts_are_what_was_published():
    manifest = vendor.read_manifest()
    assert not vendor.differences(manifest)
    named = {ROOT / entry["path"] for entry in manifest}
    folders = (ROOT / "_ext" / "widgets", ROOT / "_ext" / "licences", ROOT / "tests" / "vendor")
    lying_there = {path for folder in folders for path in folder.iterdir()}
    assert lying_there - named == {ROOT / "_ext" / "widgets" / "00-config.js"}, "not in the manifest"


def test_a_changed_script_is_noticed(tmp_path, monkeypatch):
    entry = vendor.read_manifest()[0]
    copy = tmp_path / entry["path"]
    copy.parent.mkdir(parents=True)
    copy.write_bytes((ROOT / entry["path"]).read_bytes() + b" ")
    monkeypatch.setattr(vendor, "ROOT", tmp_path)
    (message,) = vendor.differences([entry])
    assert "not the file" in message


def test_vendor_check_needs_no_network():
    command = [sys.executable, "-I", ROOT / "tools" / "vendor.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def browser():
    if look.CHROMIUM is None:
        pytest.skip(look.NO_CHROMIUM)
    with look.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(book) -> Iterator[str]:
    with look.served(book) as address:
        yield address


def check(found: look.Visit) -> None:
    """What must hold for every page, however it is looked at."""
    assert not found.outside
    assert not found.complaints
    assert found.shown["typeset"] == found.shown["written"], "mathematics left as TeX"
    assert not found.shown["failed"], "mathematics that MathJax cannot read"
    assert not found.shown["broken"]
    assert found.shown["wider"] <= 0, "the page scrolls sideways"
    assert not found.serious
    assert found.shown["shift"] <= SHIFT
    jumps = found.shown["jumps"]
    assert max(jumps, default=0) <= JUMP, f"{jumps}: run `python -m tools.measure_figures`"


@pytest.mark.parametrize("page", PAGES)
def test_page_on_a_desk(browser, address, page):
    """Served, wide and light: it is not too heavy, and every control moves its figure."""
    found = look.on_a_desk(browser, address, page)
    check(found)
    assert not found.shown["sideways"], "code that scrolls sideways on a desk"
    limit = WIDGET_PAGE if found.shown["figures"] else PLAIN_PAGE
    assert found.weight <= limit
    assert len(found.controls) >= found.shown["figures"]
    assert not [name for name, moved in found.controls if not moved]
    assert not found.shown["typed"], "a readout beside stops that takes what nobody reads"
    print(f"{page}: {found.weight / 1000:.0f} kB, alive after {found.shown['alive'] or 0:.0f} ms")


DEAD = """<div class="d2l-live"><div class="d2l-figure" data-state="x">
<p class="readout" aria-busy="true">x</p>
<button>dead</button><button onclick="this.parentElement.dataset.state += 'y'">alive</button>
</div></div>
<script>setTimeout(() => document.querySelector("p").removeAttribute("aria-busy"), 100)</script>"""


def test_a_dead_control_is_found(browser):
    """Also just after a drawing, while its readout is still marked as busy."""
    tab = browser.new_page()
    tab.set_content(DEAD)
    assert look.drive(tab) == [("figure 1, button alive", True), ("figure 1, button dead", False)]
    tab.close()


@pytest.mark.parametrize("page", PAGES)
def test_page_on_a_phone(browser, book, page):
    """From the disk, narrow and dark."""
    check(look.on_a_phone(browser, book.as_uri(), page))


@pytest.mark.parametrize("page", [f"{file}.html" for file in FILES])
def test_figures_without_scripts(browser, book, page):
    """Every live figure leaves its image and its caption."""
    count = (book / page).read_text("utf8").count('<figure class="live">')
    if count:
        assert look.without_scripts(browser, book.as_uri(), page) == [(True, True)] * count
