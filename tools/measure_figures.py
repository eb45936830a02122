"""Measure how high the live figures are, so that pages keep their room free while they load.

    python -m tools.measure_figures

Builds the book, opens every page with figures on a phone and on a desk, and writes the heights in CSS
pixels into `_ext/figure_heights.json`. To be run after a figure has been added or has changed its size;
a test tells when. Needs Chromium.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tools.look import CHROMIUM, DESK, NO_CHROMIUM, PHONE, ROOT, build, chromium, pages, served, visit

HEIGHTS = ROOT / "_ext" / "figure_heights.json"
MEASURE = """() => [...document.querySelectorAll('.live .swap')]
  .map((figure) => Math.round(figure.getBoundingClientRect().height))"""


def measure(book: Path) -> dict[str, list[list[int]]]:
    """Return the heights of each page's figures: [on a phone, on a desk] by page."""
    found = {}
    with served(book) as start, chromium() as browser:
        for page in pages(book):
            heights = []
            for width in (PHONE, DESK):
                with visit(browser, start, page, viewport={"width": width, "height": 900}) as (tab, _):
                    heights.append(tab.evaluate(MEASURE))
            if heights[0]:
                found[page.removesuffix(".html")] = [list(pair) for pair in zip(*heights, strict=True)]
    return found


def main() -> int:
    """Measure and store; return the exit code."""
    if CHROMIUM is None:
        print(NO_CHROMIUM, file=sys.stderr)
        return 1
    book = Path(sys.argv[1]) if len(sys.argv) > 1 else None  # a book that is built already
    with tempfile.TemporaryDirectory() as folder:
        found = measure(book or build(Path(folder)))
    lines = ",\n".join(f" {json.dumps(page)}: {json.dumps(heights)}" for page, heights in found.items())
    HEIGHTS.write_text(f"{{\n{lines}\n}}\n", "utf8")
    print(f"{sum(map(len, found.values()))} figures on {len(found)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
