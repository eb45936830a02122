"""The tags of boxes, and where they go: beside their box, inside the image, clear of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from numpy.typing import NDArray

from d2lmini.plots.fonts import fit_font
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
    box: NDArray[Any], size: Sequence[float], canvas: Sequence[float], taken: NDArray[Any]
) -> NDArray[Any]:
    """Find room for the tag of a box, in pixels, y pointing down; returns the tag's corners (4,).

    `box` (4,), `canvas` (4,) and `taken` (M, 4), other tags, are corners, `size` (2,) is width, height. The
    tag stays inside the canvas, clear of the others where it can, rather above its box than inside or under.
    """
    low, high = np.array(canvas[:2]), np.array(canvas[2:])
    x0, y0, x1, y1 = np.clip(box, np.tile(low, 2), np.tile(high, 2))
    w, h = size
    wish = [(x0, y0 - h), (x0, y0), (x1 - w, y0 - h), (x0, y1), (x1 - w, y1 - h), (x1 - w, y1)]  # (6, 2)
    corner = np.clip(wish, low, np.maximum(low, high - size))
    tags = np.concatenate([corner, corner + size], 1)  # (6, 4)
    overlap = np.minimum(tags[:, None, 2:], taken[:, 2:]) - np.maximum(tags[:, None, :2], taken[:, :2])
    covered = overlap.clip(0).prod(-1).sum(-1)  # (6, M, 2) → (6,)
    cost = 2 * covered / (w * h) + np.abs(corner - wish).sum(1) / h + 0.05 * np.arange(len(tags))
    return tags[cost.argmin()]


def add_tags(ax: Axes, rows: Sequence[Row]) -> None:
    """Add a tag for each row that says something, if one fits; the figure has its final size."""
    rows = [row for row in rows if row.text]
    look = {"ha": "center", "va": "center", "in_layout": False, "parse_math": False}
    ax.apply_aspect()  # which drawing would do otherwise
    renderer, frame, taken = FigureCanvasAgg(ax.figure).get_renderer(), ax.bbox, np.zeros((0, 4))
    for i, row in reversed([*enumerate(rows)]):  # the last lies on top and chooses its place first
        back = {"boxstyle": f"square,pad={TAG_PAD}", "facecolor": row.color, "linewidth": 0}
        text = Text(0, 0, row.text, color=text_color(row.color), bbox=back, zorder=5 + i / len(rows), **look)
        fit_font(text)
        ax.add_artist(text)
        for points in np.arange(MOST_POINTS, LEAST_POINTS - 0.1, -0.5):  # as large a type as the width allows
            text.set_fontsize(points)
            extent = text.get_window_extent(renderer)
            size = np.add(extent.size, 2 * TAG_PAD * renderer.points_to_pixels(points))
            if size[0] <= frame.width:
                break
        if size[0] > frame.width + 0.5 or size[1] > frame.height:
            text.remove()
            continue
        ends = np.sort(ax.transData.transform(row.corners.reshape(2, 2)) * (1, -1), axis=0)  # y points down
        rim = renderer.points_to_pixels((row.linewidth + RIM_WIDTH) / 2)
        box = np.add(ends.ravel(), (-rim, -rim, rim, rim))
        tag = place_tag(box, size, (frame.x0, -frame.y1, frame.x1, -frame.y0), taken)
        taken = np.concatenate([taken, tag[None]])
        text.set_position(ax.transData.inverted().transform((tag[:2] + tag[2:]) / 2 * (1, -1)))
