"""Sphinx extension: the book serves its own scripts and fonts, so no page asks a third party.

MathJax comes from the PyPI package ``sphinx-mathjax-offline``, of which only the files are used:
loading it as an extension would copy 18 MB, most of them variants that no page asks for.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.fileutil import copy_asset

MATHJAX_SCRIPT = "tex-mml-chtml.js"
# What that script fetches from beside itself, and only when a page needs it: the fonts, the TeX
# commands that are loaded at first use (\cancel, \boldsymbol, ...), and the screen reader's
# explorer with its speech rules.
MATHJAX_ON_DEMAND = ("output/chtml/fonts", "input/tex/extensions", "a11y", "sre")


def point_to_own_mathjax(app: Sphinx, config: Config) -> None:
    """Make pages with mathematics load MathJax from the book's own ``_static`` folder."""
    config.mathjax_path = f"mathjax/{MATHJAX_SCRIPT}"


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy MathJax into the finished book."""
    if error or app.builder.format != "html":
        return
    target = Path(app.outdir, "_static", "mathjax")
    with as_file(files("sphinx-mathjax-offline") / "static" / "mathjax") as source:
        copy_asset(source / MATHJAX_SCRIPT, target)
        for folder in MATHJAX_ON_DEMAND:
            copy_asset(source / folder, target / folder)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", point_to_own_mathjax)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
