"""Look at the built book in Chromium: what a page loads, says, weighs, and whether its figures move.

What `tests/test_book.py` asserts, `tools/book_report.py` prints and `tools/measure_figures.py` stores.
"""

from __future__ import annotations

import functools
import gzip
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ElementHandle, Locator, Page

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
NO_CHROMIUM = "no Chromium found; to run this test on Debian: apt-get install chromium"
AXE = ROOT / "tests" / "vendor" / "axe.min.js"
DESK, PHONE = 1280, 390  # widths in CSS pixels
# html-manager's schema of the widget state makes its validator, ajv, say this on every page with widgets.
# It is built when the script loads, before anything can be configured; it is about the schema, not the book.
KNOWN = "strict mode: use allowUnionTypes to allow union type keyword"


def build(folder: Path) -> Path:
    """Build the book as `make book` does, but in a folder of its own; return where its pages are.

    Raises RuntimeError with what Sphinx said if there is any warning.
    """
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ROOT, "-W", "-n"]
    command += ["--keep-going", "--quiet", "--path-output", folder]
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return folder / "_build" / "html"


def pages(book: Path) -> list[str]:
    """Return the addresses of a built book's pages, relative to its folder.

    Left out are index.html, which only leads to the front page, and 404.html, whose links hold where the
    book is published.
    """
    found = (page.relative_to(book).as_posix() for page in book.rglob("*.html"))
    return sorted(page for page in found if not page.startswith(("_static/", "index.html", "404.html")))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that does not print every request."""

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def served(book: Path) -> Iterator[str]:
    """Serve a built book on this machine; yield its address."""
    handler = functools.partial(Quiet, directory=book)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium. The caller has seen that there is one."""
    from playwright.sync_api import sync_playwright

    # root, as in most containers, has no sandbox to enter
    options = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


# ---- one visit to one page ----

# Runs before the page: adds up layout shifts, and notes when the last figure came alive and by how much
# each changed its height when it did.
WATCH = """
window.d2l = { shift: 0, alive: null, jumps: [] };
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) d2l.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
(() => {
  const before = new Map();
  const look = () => {
    const figures = [...document.querySelectorAll("figure.live")];
    for (const figure of figures) {
      const height = figure.querySelector(".swap").getBoundingClientRect().height;
      if (!figure.classList.contains("alive")) before.set(figure, height);
      else if (before.has(figure)) {
        d2l.jumps.push(Math.abs(height - before.get(figure)));
        before.delete(figure);
      }
    }
    const loaded = performance.getEntriesByType("navigation")[0].loadEventEnd;
    const done = loaded && figures.length && figures.every((f) => f.classList.contains("alive"));
    if (done) d2l.alive = performance.now() - loaded;
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})();
"""

SHOWN = """() => ({
  figures: document.querySelectorAll('figure.live').length,
  written: document.querySelectorAll('.math').length,
  typeset: document.querySelectorAll('.math mjx-container').length,
  failed: document.querySelectorAll('mjx-merror, [data-mjx-error]').length,
  broken: [...document.images].filter(i => i.offsetHeight && !(i.complete && i.naturalWidth)).map(i => i.src),
  wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  sideways: [...document.querySelectorAll('.bd-article pre')].filter(p => p.scrollWidth > p.clientWidth + 1)
    .filter(p => !p.closest('.stream, .text_plain')).map(p => p.textContent.slice(0, 40)), // printed may
  typed: document.querySelectorAll('.d2l-steps .widget-readout[contenteditable="true"]').length,
  alive: d2l.alive, shift: d2l.shift, jumps: d2l.jumps,
})"""

SERIOUS = """() => axe.run({ resultTypes: ['violations'], preload: false }).then((found) => found.violations
  .filter((v) => ['serious', 'critical'].includes(v.impact))
  .flatMap((v) => v.nodes.map((n) => `${v.impact} ${v.id}: ${n.target.join(' ')}`)))"""


@dataclass
class Visit:
    """What one visit to a page has found."""

    page: str
    outside: list[str] = field(default_factory=list)  # requests to anybody else
    complaints: list[str] = field(default_factory=list)  # in the console, or requests that failed
    requests: int = 0
    weight: int = 0  # bytes, each file gzipped
    shown: dict[str, Any] = field(default_factory=dict)
    serious: list[str] = field(default_factory=list)  # axe-core's serious and critical findings
    controls: list[tuple[str, bool]] = field(default_factory=list)  # name, and whether it moved its figure


@contextmanager
def visit(
    browser: Browser, start: str, page: str, weigh: bool = False, **options: Any
) -> Iterator[tuple[Page, Visit]]:
    """Open a page and wait until its mathematics is set and its figures are alive."""
    tab = browser.new_page(**options)
    found = Visit(page)
    replies = []
    tab.on("request", lambda request: note_request(found, start, request.url))
    tab.on("requestfailed", lambda request: found.complaints.append(f"failed: {request.url}"))
    tab.on("response", lambda r: found.complaints.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    tab.on("response", lambda reply: replies.append(reply))
    tab.on("pageerror", lambda error: found.complaints.append(f"error: {error}"))
    tab.on("console", lambda message: note_message(found, message.type, message.text))
    tab.add_init_script(WATCH)
    tab.goto(f"{start}/{page}", wait_until="load")
    tab.evaluate("() => window.MathJax?.startup?.promise.then(() => true)")
    tab.wait_for_function(
        "() => [...document.querySelectorAll('figure.live')].every((f) => f.matches('.alive'))"
    )
    tab.wait_for_function("() => d2l.alive !== null || !document.querySelector('figure.live')")
    tab.wait_for_timeout(100)  # fonts that the last drawing asked for
    found.shown = tab.evaluate(SHOWN)
    if weigh:
        tab.wait_for_load_state("networkidle")
        found.weight = sum(len(gzip.compress(reply.body(), 6)) for reply in replies if reply.ok)
    try:
        yield tab, found
    finally:
        tab.close()


def on_a_desk(browser: Browser, start: str, page: str) -> Visit:
    """Visit a page on a wide light screen: weigh it, and move every control."""
    view = {"viewport": {"width": DESK, "height": 900}, "color_scheme": "light"}
    with visit(browser, start, page, weigh=True, **view) as (tab, found):
        found.serious = axe(tab)
        found.controls = drive(tab)
    return found


def on_a_phone(browser: Browser, start: str, page: str) -> Visit:
    """Visit a page on a narrow dark screen."""
    view = {"viewport": {"width": PHONE, "height": 844}, "color_scheme": "dark"}
    with visit(browser, start, page, **view) as (tab, found):
        found.serious = axe(tab)
    return found


def without_scripts(browser: Browser, start: str, page: str) -> list[tuple[bool, bool]]:
    """Visit a page with scripts off; return for each live figure whether image and caption are seen."""
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{start}/{page}")
    found = []
    for figure in tab.locator("figure.live").all():
        image, caption = figure.locator("img.still"), figure.locator("figcaption")
        image.scroll_into_view_if_needed()
        tall = (image.bounding_box() or {}).get("height", 0) > 100
        found.append((image.is_visible() and tall, caption.is_visible() and bool(caption.text_content())))
    context.close()
    return found


def note_request(found: Visit, start: str, url: str) -> None:
    """Count a request, and remember it if it leaves the book."""
    found.requests += not url.startswith(("data:", "blob:"))
    if not url.startswith((f"{start}/", "data:", "blob:")):
        found.outside.append(url)


def note_message(found: Visit, kind: str, text: str) -> None:
    """Remember an error or a warning of the console."""
    if kind in ("error", "warning") and KNOWN not in text:
        found.complaints.append(f"{kind}: {text}")


def axe(tab: Page) -> list[str]:
    """Return axe-core's serious and critical findings on a page."""
    if not tab.evaluate("() => 'axe' in window"):
        tab.evaluate(AXE.read_text("utf8"))
    return tab.evaluate(SERIOUS)


# ---- moving the controls of figures ----

# What a figure shows now, without the names of clip paths, which are new in every drawing, and without the
# mark of a readout that has just changed, which goes by itself a moment later.
STATE = """(live) => [...live.querySelectorAll('.d2l-figure')].map((f) => f.dataset.state + f.innerHTML)
  .join().replaceAll(/clip-[0-9a-z]+| aria-busy="true"/g, '')"""
HANDLES = ".noUi-handle"
BUTTONS = ".d2l-figure button, .widget-toggle-buttons button, .widget-toggle-button"
DIRECT = ".d2l-figure svg [tabindex='0']"
TOUCHED = ".d2l-figure .touch"
KEYS = ("Enter", "ArrowRight", "ArrowDown")
SAMPLE = 4  # of the boxes, points, ... of one drawing that can be chosen


def drive(tab: Page) -> list[tuple[str, bool]]:
    """Move every control on a page; return for each its name and whether its figure answered."""
    found = []
    for number, live in enumerate(tab.locator(".d2l-live").all(), 1):
        for name, moved in drive_figure(tab, live):
            found.append((f"figure {number}, {name}", moved))
    return found


def drive_figure(tab: Page, live: Locator) -> Iterator[tuple[str, bool]]:
    """Move the controls of one figure, each in every way that a reader has.

    First what is in the drawing: a slider at its end may leave nothing there to choose from.
    """
    live.scroll_into_view_if_needed()
    yield from press_all(live, "button", live.locator(BUTTONS).element_handles())
    yield from drive_direct(tab, live)
    for handle in live.locator(HANDLES).all():
        name = handle.get_attribute("aria-label")
        yield f"slider {name} by keyboard", press_arrows(tab, live, handle)
        yield f"slider {name} by mouse", drag(tab, live, handle)
    for select in live.locator("select").all():
        name = select.evaluate("(s) => s.labels[0]?.textContent")
        yield (
            f"list {name}",
            any(moves(live, functools.partial(choose, select, i)) for i in other_options(select)),
        )
    for box in live.locator("input[type=checkbox]").all():
        name = box.evaluate("(b) => b.labels[0]?.textContent")
        yield f"checkbox {name}", moves(live, box.click)


def moves(live: Locator, action: Callable[[], object]) -> bool:
    """Do something; return whether the figure shows something else within half a second."""
    before = live.evaluate(STATE)
    action()
    return live.evaluate(
        f"""async (live, before) => {{
          const state = {STATE};
          for (let i = 0; i < 30; i++) {{
            if (state(live) !== before) return true;
            await new Promise(requestAnimationFrame);
          }}
          return false;
        }}""",
        before,
    )


def press_arrows(tab: Page, live: Locator, handle: Locator) -> bool:
    """Move a slider by its arrow keys, away from the end at which it may stand."""
    at_end = handle.evaluate("(h) => Number(h.ariaValueNow) >= Number(h.ariaValueMax)")
    key = "ArrowLeft" if at_end else "ArrowRight"
    handle.focus()
    return any(moves(live, functools.partial(tab.keyboard.press, key)) for _ in range(5))


def drag(tab: Page, live: Locator, handle: Locator) -> bool:
    """Drag a slider by a third of its length, to the side that has room."""
    track = handle.locator("xpath=ancestor::*[contains(@class, 'noUi-base')]").bounding_box()
    box = handle.bounding_box()
    sign = 1 if box["x"] + box["width"] / 2 < track["x"] + track["width"] / 2 else -1
    return moves(live, functools.partial(pull, tab, handle, sign * track["width"] / 3, 0))


def pull(tab: Page, target: Locator, right: float, down: float) -> None:
    """Press the mouse on the middle of something, move it, and let go."""
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + right, y + down, steps=4)
    tab.mouse.up()


def other_options(select: Locator) -> list[int]:
    """Return the indices of the options that are not chosen."""
    chosen, count = select.evaluate("(s) => [s.selectedIndex, s.options.length]")
    return [i for i in range(count) if i != chosen]


def choose(select: Locator, index: int) -> None:
    """Choose one option of a dropdown."""
    select.select_option(index=index)


def press_all(live: Locator, kind: str, elements: list[ElementHandle]) -> Iterator[tuple[str, bool]]:
    """Press every button, twice round: 'back' does nothing before 'on' was pressed."""
    waiting = {(e.text_content() or "").strip() or str(i): e for i, e in enumerate(elements)}
    for _ in range(2):
        for name, element in list(waiting.items()):
            if element.is_enabled() and moves(live, functools.partial(element.evaluate, "(e) => e.click()")):
                del waiting[name]
                yield f"{kind} {name}", True
    yield from ((f"{kind} {name}", False) for name in waiting)


def drive_direct(tab: Page, live: Locator) -> Iterator[tuple[str, bool]]:
    """Use what can be chosen or moved in the drawing itself; one of each kind that answers is enough."""
    count = live.locator(DIRECT).count()
    if count:
        picks = sorted({round(i * (count - 1) / max(1, SAMPLE - 1)) for i in range(SAMPLE)})
        tries = [(pick, key) for pick in picks for key in KEYS]
        yield "drawing by keyboard", any(moves(live, functools.partial(press, live, *one)) for one in tries)
    touched = live.locator(TOUCHED)
    if touched.count():
        one = touched.first
        tries = [(right, down) for right in (12, -12) for down in (12, -12)]
        yield "drawing by mouse", any(moves(live, functools.partial(pull, tab, one, *way)) for way in tries)


def press(live: Locator, pick: int, key: str) -> None:
    """Press a key on one of a drawing's own controls; a drawing may by now have fewer of them."""
    target = live.locator(DIRECT).nth(pick)
    if target.count():
        target.focus()
        target.press(key)
