"""The tags of boxes, and where they go: beside their box, inside the image, clear of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from numpy.typing import NDArray

from d2lmini.plots.style import text_color

RIM_WIDTH = 1.0  # how much wider the dark line under a line is, in points
TAG_PAD = 0.22  # around a tag's words, in sizes of its type
MOST_POINTS, LEAST_POINTS = 8.0, 4.0


class Row(NamedTuple):
    """One box to draw: corners (4,) in pixels of the drawing, and what its tag says ("": no tag)."""

    corners: NDArray[Any]
    color: str
    text: str
    dashed: bool
    linewidth: float


def place_tag(
    box: NDArray[Any], size: Sequence[float], canvas: Sequence[float], taken: NDArray[Any], below: bool
) -> NDArray[Any]:
    """Find room for the tag of a box, in pixels, y pointing down; returns the tag's corners (4,).

    Shapes: box (4,) corners, size (2,) width and height of the tag, canvas (4,) and taken (M, 4) corners of
    the image and of other tags. The tag stays inside the canvas and goes, where there is a choice, above
    its box (or under it, if `below`), then inside it, clear of the others.
    """
    low, high = np.array(canvas[:2]), np.array(canvas[2:])
    x0, y0, x1, y1 = np.clip(box, np.tile(low, 2), np.tile(high, 2))
    w, h = size
    wish = [(x0, y0 - h), (x0, y0), (x1 - w, y0 - h), (x0, y1), (x1 - w, y1 - h), (x1 - w, y1)]
    wish = np.array(wish[::-1] if below else wish)  # (6, 2)
    corner = np.clip(wish, low, np.maximum(low, high - size))
    tags = np.concatenate([corner, corner + size], 1)  # (6, 4)
    overlap = np.minimum(tags[:, None, 2:], taken[:, 2:]) - np.maximum(tags[:, None, :2], taken[:, :2])
    covered = overlap.clip(0).prod(-1).sum(-1)  # (6, M, 2) → (6,)
    cost = 2 * covered / (w * h) + np.abs(wish - corner).sum(1) / h + 0.05 * np.arange(len(tags))
    return tags[cost.argmin()]


def add_tags(ax: Axes, rows: Sequence[Row], below: bool = False) -> None:
    """Add a tag for each row that says something, in a type that fits; the figure has its final size.

    Tags of dashed boxes go under their box, if `below`. Those that are too large for the axes are left out.
    """
    rows = [row for row in rows if row.text]
    texts = [ax.add_artist(_tag(row)) for row in rows]
    ax.apply_aspect()  # which drawing would do otherwise
    renderer, frame, taken = FigureCanvasAgg(ax.figure).get_renderer(), ax.bbox, np.zeros((0, 4))
    # The best detection is last, to lie on top, but chooses its place first; ground truth comes after them.
    for i in sorted(reversed(range(len(rows))), key=lambda i: rows[i].dashed):
        row, text = rows[i], texts[i]
        size = _fit(text, frame.width, renderer)
        if size[0] > frame.width + 0.5 or size[1] > frame.height:
            text.remove()
            continue
        ends = np.sort(ax.transData.transform(row.corners.reshape(2, 2)) * (1, -1), axis=0)  # y points down
        rim = renderer.points_to_pixels((row.linewidth + RIM_WIDTH) / 2)
        box = np.add(ends.ravel(), (-rim, -rim, rim, rim))
        canvas = (frame.x0, -frame.y1, frame.x1, -frame.y0)
        tag = place_tag(box, size, canvas, taken, below and row.dashed)
        taken = np.concatenate([taken, tag[None]])
        text.set_position(ax.transData.inverted().transform((tag[:2] + tag[2:]) / 2 * (1, -1)))


def _tag(row: Row) -> Text:
    box = {"boxstyle": f"square,pad={TAG_PAD}", "facecolor": row.color, "linewidth": 0}
    look = {"ha": "center", "va": "center", "zorder": 5, "bbox": box, "parse_math": False}
    return Text(0, 0, row.text, color=text_color(row.color), in_layout=False, **look)


def _fit(text: Text, room: float, renderer: RendererBase) -> tuple[float, float]:
    """A tag's width and height in pixels, in as large a type as its width allows."""
    points = MOST_POINTS
    while True:
        text.set_fontsize(points)
        extent = text.get_window_extent(renderer)
        pad = 2 * TAG_PAD * renderer.points_to_pixels(points)
        width, height = extent.width + pad, extent.height + pad
        if width <= room or points <= LEAST_POINTS:
            return width, height
        # Widths of small type do not quite follow its size, so this may take several steps.
        points = max(LEAST_POINTS, min(points * room / width, points - 0.25))
