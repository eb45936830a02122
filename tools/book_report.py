"""Print a table of the built book's pages: weight, figures, controls, findings, requests.

    python -m tools.book_report             builds the book first
    python -m tools.book_report _build/html looks at one that is built

Each page is opened twice in Chromium: on a desk (1280 px, light, over loopback), where every control is
moved, and on a phone (390 px, dark). `tests/test_book.py` holds the same numbers to their limits.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tools.look import (
    CHROMIUM,
    NO_CHROMIUM,
    Visit,
    build,
    chromium,
    on_a_desk,
    on_a_phone,
    pages,
    served,
)

HEAD = ("page", "kB gz", "requests", "outside", "console", "figures", "controls", "dead", "axe", "alive ms")
HEAD += ("CLS 1280", "CLS 390", "jump px")


def row(desk: Visit, phone: Visit) -> list[str]:
    """Return one line of the table; 'dead' are controls that moved nothing, 'axe' findings in both visits."""
    dead = sum(not moved for _, moved in desk.controls)
    alive = desk.shown["alive"]
    return [
        desk.page.removesuffix(".html"),
        f"{desk.weight / 1000:.0f}",
        str(desk.requests),
        str(len(desk.outside + phone.outside)),
        str(len(desk.complaints + phone.complaints)),
        str(desk.shown["figures"]),
        str(len(desk.controls)),
        str(dead),
        str(len(desk.serious + phone.serious)),
        "–" if alive is None else f"{alive:.0f}",
        f"{desk.shown['shift']:.3f}",
        f"{phone.shown['shift']:.3f}",
        f"{max([0, *desk.shown['jumps'], *phone.shown['jumps']]):.0f}",
    ]


def details(desk: Visit, phone: Visit) -> list[str]:
    """Return what is wrong with a page, a line each."""
    wrong = [f"{name} moves nothing" for name, moved in desk.controls if not moved]
    for found in (desk, phone):
        wrong += found.outside + found.complaints + found.serious
        if found.shown["wider"] > 0:
            wrong.append(f"scrolls sideways by {found.shown['wider']} px")
    return [f"{desk.page}: {line}" for line in wrong]


def report(book: Path) -> list[str]:
    """Look at every page; return the table's lines, then everything that is wrong."""
    rows, wrong = [list(HEAD)], []
    with served(book) as start, chromium() as browser:
        for page in pages(book):
            desk, phone = on_a_desk(browser, start, page), on_a_phone(browser, start, page)
            rows.append(row(desk, phone))
            wrong += details(desk, phone)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in rows]
    return lines + wrong


def main() -> int:
    """Print the report; return the exit code."""
    if CHROMIUM is None:
        print(NO_CHROMIUM, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        book = Path(sys.argv[1]) if len(sys.argv) > 1 else build(Path(folder))
        print("\n".join(report(book)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
