"""Sphinx extension: the book serves its own scripts and fonts, and no more of them than it uses.

MathJax comes from the PyPI package ``sphinx-mathjax-offline``, of which only the files are used:
loading it as an extension would copy 18 MB, most of them variants that no page asks for. What live
figures need (require.js and ipywidgets' html-manager from npm, see ``vendored.json``; anywidget from its
own wheel) goes only on pages that have one. Of the theme's icons, only those that the book shows.
"""

from __future__ import annotations

import logging
import re
from importlib.metadata import distribution
from importlib.resources import as_file, files
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.fileutil import copy_asset

HERE = Path(__file__).parent
MATHJAX_SCRIPT = "tex-mml-chtml.js"
# What that script fetches from beside itself, and only when a page needs it: the fonts, the TeX
# commands that are loaded at first use (\cancel, \boldsymbol, ...), and the screen reader's
# explorer with its speech rules.
MATHJAX_ON_DEMAND = ("output/chtml/fonts", "input/tex/extensions", "a11y", "sre")
# Deferred, so that a page is read while 3.6 MB of html-manager are on their way; live.js is not, because
# it keeps room for what they will draw.
WIDGET_SCRIPTS = {
    "live.js": {},
    "widgets/require.js": {"defer": "defer"},
    "widgets/00-config.js": {"defer": "defer"},
    "widgets/embed-amd.js": {"defer": "defer", "data-jupyter-widgets-cdn": "./_no_cdn_/"},
}

# The theme's icons: family and weight as its style sheet writes them, and its font files.
ICON_FONTS = {
    ("Font Awesome 6 Free", 900): "fa-solid-900",
    ("Font Awesome 6 Brands", 400): "fa-brands-400",
}
ICON_RULE = re.compile(r"([^{}]+)\{content:\"\\([0-9a-f]+)\"\}")
ICON_NAME = re.compile(r"\bfa-[a-z0-9-]+")
# Icons that are named only in the theme's own scripts and style sheets: close, and the arrow of the
# contents; note, tip, warning, ... of admonitions.
ICONS_OF_THEME = {
    *("fa-xmark", "fa-angle-down", "fa-angle-left", "fa-angle-right", "fa-circle-check", "fa-circle-info"),
    *("fa-circle-xmark", "fa-triangle-exclamation", "fa-circle-exclamation", "fa-lightbulb", "fa-bell"),
    *("fa-pencil", "fa-share", "fa-download", "fa-up-right-from-square", "fa-check"),
}


def point_to_own_scripts(app: Sphinx, config: Config) -> None:
    """Make pages load MathJax and the widgets' scripts from the book's own ``_static`` folder."""
    config.mathjax_path = f"mathjax/{MATHJAX_SCRIPT}"
    config.nb_ipywidgets_js = WIDGET_SCRIPTS
    config.html_static_path.append(str(HERE / "page"))


def copy_scripts(app: Sphinx, error: Exception | None) -> None:
    """Copy the scripts and their licences into the finished book."""
    if error or app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    copy_asset(HERE / "widgets", static / "widgets")
    copy_asset(HERE / "licences", static / "licences")
    (static / "licences" / "anywidget.txt").write_text(licence("anywidget"), "utf8")
    with as_file(files("anywidget") / "nbextension" / "index.js") as script:
        (static / "widgets" / "anywidget.js").write_bytes(script.read_bytes())
    with as_file(files("sphinx-mathjax-offline") / "static" / "mathjax") as source:
        copy_asset(source / MATHJAX_SCRIPT, static / "mathjax")
        for folder in MATHJAX_ON_DEMAND:
            copy_asset(source / folder, static / "mathjax" / folder)


def licence(package: str) -> str:
    """Return the text of an installed package's licence."""
    found = [file for file in distribution(package).files or [] if file.name.startswith("LICENSE")]
    return found[0].read_text("utf8")


# ---- icons ----


def icons_by_name(sheet: str) -> dict[str, int]:
    """Read from the theme's style sheet which character shows which icon."""
    found = {}
    for selectors, code in ICON_RULE.findall(sheet):
        for name in re.findall(r"\.(fa-[\w-]+):before", selectors):
            found[name] = int(code, 16)
    return found


def icons_in(folder: Path) -> set[str]:
    """Return the names of all icons that the pages of a built book show."""
    pages = (path for path in folder.rglob("*.html") if "_static" not in path.parts)
    return {name for page in pages for name in ICON_NAME.findall(page.read_text("utf8"))}


logging.getLogger("fontTools").setLevel(logging.WARNING)  # it would tell of every table that it cuts


def small_font(source: Path, target: Path, characters: set[int]) -> set[int]:
    """Write the part of a font that draws some characters, as WOFF; return those that it has."""
    options = subset.Options(flavor="woff", layout_features=[], recalc_timestamp=False)
    with TTFont(source, recalcTimestamp=False) as font:
        own = characters & font.getBestCmap().keys()
        worker = subset.Subsetter(options)
        worker.populate(unicodes=own)
        worker.subset(font)
        subset.save_font(font, target, options)
    return own


def cut_icons(app: Sphinx, error: Exception | None) -> None:
    """Put before the theme's icon fonts (270 kB) ones of the few icons that the book shows (5 kB).

    The theme's fonts stay where they are. The browser asks for them if a page ever needs an icon that
    is not in the small ones, so nothing can go missing.
    """
    if error or app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    sheet = (static / "styles" / "pydata-sphinx-theme.css").read_text("utf8")
    names = icons_by_name(sheet)
    shown = {names[name] for name in icons_in(Path(app.outdir)) | ICONS_OF_THEME if name in names}
    rules = []
    for (family, weight), file in ICON_FONTS.items():
        source = static / "vendor" / "fontawesome" / "webfonts" / f"{file}.ttf"
        own = small_font(source, static / f"{file}-small.woff", shown)
        ranges = ", ".join(f"U+{code:x}" for code in sorted(own))
        rules.append(
            f'@font-face {{ font-family: "{family}"; font-style: normal; font-weight: {weight}; '
            f'font-display: block; src: url({file}-small.woff) format("woff"); unicode-range: {ranges}; }}'
        )
    (static / "icons.css").write_text("\n".join([*rules, ""]), "utf8")
    for unused in (static / "scripts").glob("fontawesome.js*"):  # layout.html leaves its tag out
        unused.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", point_to_own_scripts, priority=10)  # before myst_nb reads its own
    app.connect("build-finished", copy_scripts)
    app.connect("build-finished", cut_icons, priority=900)  # when all pages are written
    app.add_css_file("icons.css", priority=900)  # after the theme's, so that these fonts are tried first
    return {"parallel_read_safe": True, "parallel_write_safe": True}
