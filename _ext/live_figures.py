"""Sphinx extension: a live figure in a page, with the picture and the caption that stand for it.

The output of a cell with a live figure holds three things: the widget, a picture that makes the same
point, and a caption in plain text. myst_nb would keep only the widget. Here all three go into the page:
the caption stays, and the picture is what a reader sees until the figure is alive, or for good where no
script runs. `page/live.js` swaps the two.

So that nothing below jumps when they are swapped, the page keeps the height free that the figure will
have. Only a browser knows it: `tools/measure_figures.py` writes it into `figure_heights.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.writers.html5 import HTML5Translator

HERE = Path(__file__).parent
HEIGHTS = HERE / "figure_heights.json"
WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURE = "image/png"
CAPTION = "text/plain"


class live_figure(nodes.General, nodes.Element):
    """A figure; `script` starts the widget, `caption` says the point, the picture is its child.

    Its name is in lower case, as those of all docutils' nodes.
    """


class KeepFallback(SphinxPostTransform):
    """Turn the outputs that hold a widget, a picture and a caption into `live_figure`s."""

    default_priority = 3  # just before myst_nb's SelectMimeType, which keeps one of the three
    formats = ("html",)

    def run(self, **options: object) -> None:
        """Called by Sphinx for each page."""
        heights = measured().get(self.env.docname, [])
        found = 0
        for bundle in list(self.document.findall(is_bundle)):
            parts = {child["mime_type"]: child for child in bundle.children}
            if not {WIDGET, PICTURE, CAPTION} <= parts.keys():
                continue
            figure = live_figure(script=parts[WIDGET].astext(), caption=parts[CAPTION].astext().strip())
            figure["heights"] = heights[found] if found < len(heights) else []
            for picture in parts[PICTURE].children:
                picture["classes"].append("still")
                figure += picture
            bundle.replace_self(figure)
            found += 1


def is_bundle(node: nodes.Node) -> bool:
    """Whether a node is myst_nb's collection of all forms of one output."""
    return isinstance(node, nodes.container) and node.get("nb_element") == "mime_bundle"


def measured() -> dict[str, list[list[int]]]:
    """Heights in CSS pixels by page and figure: on a phone (390 px wide), on a desk (1280 px)."""
    return json.loads(HEIGHTS.read_text("utf8")) if HEIGHTS.is_file() else {}


def visit_live_figure(self: HTML5Translator, node: live_figure) -> None:
    """Write the widget's place; the picture's own visitor writes the picture after it."""
    style = ""
    if node["heights"]:
        style = ' style="--on-phone: {}px; --on-desk: {}px"'.format(*node["heights"])
    self.body.append(f'<figure class="live">\n<div class="swap"{style}>\n')
    self.body.append(f'<div class="stage">{node["script"]}</div>\n')


def depart_live_figure(self: HTML5Translator, node: live_figure) -> None:
    """Write the caption."""
    self.body.append(f"</div>\n<figcaption>{self.encode(node['caption'])}</figcaption>\n</figure>\n")


def add_styles(app: Sphinx) -> None:
    """Every page may have a figure, and the style sheet is small."""
    app.add_css_file("live.css")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_node(live_figure, html=(visit_live_figure, depart_live_figure))
    app.add_post_transform(KeepFallback)
    app.connect("builder-inited", add_styles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
