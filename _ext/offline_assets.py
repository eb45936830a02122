"""Sphinx extension: the book serves its own scripts and fonts, so no page asks a third party.

MathJax comes from the PyPI package ``sphinx-mathjax-offline``, of which only the files are used:
loading it as an extension would copy 18 MB, most of them variants that no page asks for. What live
figures need (require.js and ipywidgets' html-manager from npm, see ``widgets/``; anywidget from its
own wheel) goes only on pages that have one.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.fileutil import copy_asset

HERE = Path(__file__).parent
MATHJAX_SCRIPT = "tex-mml-chtml.js"
# What that script fetches from beside itself, and only when a page needs it: the fonts, the TeX
# commands that are loaded at first use (\cancel, \boldsymbol, ...), and the screen reader's
# explorer with its speech rules.
MATHJAX_ON_DEMAND = ("output/chtml/fonts", "input/tex/extensions", "a11y", "sre")
WIDGET_SCRIPTS = {
    "widgets/require.js": {},
    "widgets/00-config.js": {},
    "widgets/embed-amd.js": {"data-jupyter-widgets-cdn": "./_no_cdn_/"},
}


def point_to_own_scripts(app: Sphinx, config: Config) -> None:
    """Make pages load MathJax and the widgets' scripts from the book's own ``_static`` folder."""
    config.mathjax_path = f"mathjax/{MATHJAX_SCRIPT}"
    config.nb_ipywidgets_js = WIDGET_SCRIPTS


def copy_scripts(app: Sphinx, error: Exception | None) -> None:
    """Copy the scripts into the finished book."""
    if error or app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    copy_asset(HERE / "widgets", static / "widgets")
    with as_file(files("anywidget") / "nbextension" / "index.js") as script:
        (static / "widgets" / "anywidget.js").write_bytes(script.read_bytes())
    with as_file(files("sphinx-mathjax-offline") / "static" / "mathjax") as source:
        copy_asset(source / MATHJAX_SCRIPT, static / "mathjax")
        for folder in MATHJAX_ON_DEMAND:
            copy_asset(source / folder, static / "mathjax" / folder)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", point_to_own_scripts, priority=10)  # before myst_nb reads its own
    app.connect("build-finished", copy_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
