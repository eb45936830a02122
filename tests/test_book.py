"""The built book: no warning, no request to anybody else, no error in the browser's console."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
NO_CHROMIUM = "no Chromium found; to run this test on Debian: apt-get install chromium"


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """Build the book as `make book` does, but in a folder of its own."""
    folder = tmp_path_factory.mktemp("book")
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ROOT, "-W", "-n"]
    command += ["--keep-going", "--quiet", "--path-output", folder]
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    return folder / "_build" / "html"


class Links(HTMLParser):
    """Collects what a page loads by itself, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value for key, value in attrs if value}
        self.ids.update(values[key] for key in ("id", "name") if key in values)
        if tag == "a" and "href" in values:
            self.linked.append(values["href"])
        elif tag == "link" and "href" in values:
            self.loaded.append(values["href"])
        elif "src" in values:
            self.loaded.append(values["src"])


def links(page: Path) -> Links:
    found = Links()
    found.feed(page.read_text("utf8"))
    return found


def pages(book: Path) -> list[Path]:
    return sorted(page for page in book.rglob("*.html") if "_static" not in page.parts)


def test_every_chapter_is_a_page(book):
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
    files = [toc["root"], *(chapter["file"] for chapter in toc["chapters"])]
    assert {book / f"{name}.html" for name in files} <= set(pages(book))
    written = {p.stem for p in (ROOT / "chapters").iterdir() if p.suffix in (".md", ".ipynb")}
    assert written == {Path(name).name for name in files}, "a chapter is missing in _toc.yml"


def test_pages_load_only_files_of_the_book(book):
    for page in pages(book):
        for address in links(page).loaded:
            parts = urlsplit(address)
            assert not parts.scheme or parts.scheme == "data", f"{page.name} loads {address}"
            assert not parts.netloc, f"{page.name} loads {address}"
            if not parts.scheme and parts.path:
                assert (page.parent / unquote(parts.path)).is_file(), f"{page.name}: {address}"


def test_links_inside_the_book_lead_somewhere(book):
    found = {page: links(page) for page in pages(book)}
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


def test_notebooks_open_in_colab(book):
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    name = config["repository"]["url"].removeprefix("https://github.com/")
    for chapter in (ROOT / "chapters").glob("*.ipynb"):
        address = f"https://colab.research.google.com/github/{name}/blob/main/chapters/{chapter.name}"
        assert address in links(book / "chapters" / f"{chapter.stem}.html").linked


# ---------------------------------------------------------------- in the browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(book) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=book)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    from playwright.sync_api import sync_playwright

    # root, as in most containers, has no sandbox to enter
    options = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


def look(browser, start: str, page: str, **options) -> tuple[list[str], list[str], dict]:
    """Open a page; return what it asked others for, its complaints, and what it shows."""
    tab = browser.new_page(**options)
    requests, complaints = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    tab.on("response", lambda r: complaints.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    tab.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    tab.on(
        "console",
        lambda m: complaints.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None,
    )
    tab.goto(f"{start}/{page}", wait_until="networkidle")
    tab.evaluate("() => window.MathJax?.startup?.promise")
    shown = tab.evaluate(SHOWN)
    tab.close()
    outside = [url for url in requests if not url.startswith((f"{start}/", "data:", "blob:"))]
    return outside, complaints, shown


SHOWN = """() => ({
  written: document.querySelectorAll('.math').length,
  typeset: document.querySelectorAll('.math mjx-container').length,
  failed: document.querySelectorAll('mjx-merror, [data-mjx-error]').length,
  broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
  wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
})"""


@pytest.mark.parametrize(
    ("scheme", "width"), [("http", 1280), ("file", 390)], ids=["server-desk", "disk-phone"]
)
def test_every_page_is_whole_and_quiet(browser, book, address, scheme, width):
    start = address if scheme == "http" else book.as_uri()
    for page in pages(book):
        name = page.relative_to(book).as_posix()
        outside, complaints, shown = look(browser, start, name, viewport={"width": width, "height": 800})
        assert not outside, name
        assert not complaints, name
        assert shown["typeset"] == shown["written"], f"{name}: mathematics left as TeX"
        assert not shown["failed"], f"{name}: mathematics that MathJax cannot read"
        assert not shown["broken"], name
        assert shown["wider"] <= 0, f"{name} scrolls sideways at a width of {width}"
