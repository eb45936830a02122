"""Images with boxes: one, several side by side, or a sheet of many.

A color is a class, a solid line a detection, a dashed line ground truth. Every line has a dark rim, so
that it stands out from any image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

from d2lmini.data.samples import Sample
from d2lmini.detect import Detections
from d2lmini.plots import style
from d2lmini.plots.style import Drawing, ImageLike, Values, class_color, to_array, to_pixels
from d2lmini.plots.tags import RIM_WIDTH, Row, add_tags

DASHES = (0, (2.0, 3.0))  # in line widths; the caps make the dashes one longer, the gaps shorter
Frame = tuple[float, float, float, float]  # left, top, width and height of an image in its axes
Column = Values | None
Names = Sequence[str] | None


def box_rows(
    frame: Frame,
    boxes: Values,
    labels: Column = None,
    scores: Column = None,
    classes: Names = None,
    colors: str | Sequence[str] | None = None,
    dashed: bool = False,
    linewidth: float = 1.5,
) -> list[Row]:
    """What is to be drawn of boxes (G, 4): no padding (label below 0), nothing not finite."""
    corners = to_array(boxes)
    corners = corners.reshape(0, 4) if corners.size == 0 else corners
    count = len(corners)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"boxes are {corners.shape}: pass (G, 4), those of one image")
    if colors is not None and not isinstance(colors, str) and len(colors) != count:
        raise ValueError(f"{len(colors)} colors for {count} boxes: pass one, or one for each")
    ids, values = _column(labels, "labels", count), _column(scores, "scores", count)
    rows = []
    for i, box in enumerate(corners * (frame[2:] * 2) + frame[:2] * 2):
        label = int(ids[i] or 0)
        if label < 0 or not np.isfinite(box).all():
            continue
        color = colors if isinstance(colors, str) else colors[i] if colors else class_color(label)
        name = class_name(label, classes) if classes and ids[i] is not None else ""
        score = "" if values[i] is None else f"{values[i]:.2f}"
        rows.append(Row(box, color, f"{name} {score}".strip(), dashed, linewidth))
    return rows


def _column(values: Column, name: str, count: int) -> NDArray[Any]:
    """Labels or scores (count,) of boxes; of None where none are given."""
    column = np.full(count, None) if values is None else to_array(values)
    if column.shape != (count,):
        raise ValueError(f"{name} is {column.shape} for {count} boxes: pass one for each box")
    return column


def class_name(label: int, classes: Sequence[str]) -> str:
    """The name of a class, on one line. Raises ValueError for a label without a name."""
    if label >= len(classes):
        raise ValueError(f"label {label} has no name, there are {len(classes)} classes: pass all their names")
    return " ".join(str(classes[label]).split())


def object_rows(
    frame: Frame, found: Detections | None, boxes: Column, labels: Column, classes: Names, width: float = 1.5
) -> list[Row]:
    """Detections, the best last, and on top of them ground truth, then white and thinner."""
    if found is None:
        return [] if boxes is None else box_rows(frame, boxes, labels, None, classes, None, True, width)
    rows = box_rows(frame, found.boxes, found.labels, found.scores, classes, linewidth=width)[::-1]
    if boxes is not None:
        names = classes if classes and len(classes) > 1 else None  # one class needs no name twice
        rows += box_rows(frame, boxes, labels, None, names, style.TRUTH, True, width - 0.5)
    return rows


def draw_rows(ax: Axes, rows: Sequence[Row], frame: Frame) -> None:
    """One rectangle for each row, with a dark rim, cut off at the frame."""
    window = Rectangle(frame[:2], *frame[2:], transform=ax.transData)
    for row in rows:
        (x0, y0, x1, y1), width = row.corners, row.linewidth
        edge = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=row.color, linewidth=width)
        edge.set(linestyle=DASHES if row.dashed else "-", zorder=3, joinstyle="miter")
        edge.set_path_effects([withStroke(linewidth=width + RIM_WIDTH, foreground=style.RIM)])
        edge.set_capstyle("projecting")  # so that the rim closes the ends of a dash too
        ax.add_patch(edge)
        edge.set_clip_path(window)


def show_image(image: ImageLike, ax: Axes) -> Frame:
    """Fill axes with an image, one data unit per pixel, from edge to edge; returns where it lies."""
    pixels = to_pixels(image)
    height, width = pixels.shape[:2]
    ax.imshow(pixels, extent=(0, width, height, 0), interpolation="antialiased", origin="upper")
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return 0, 0, width, height


def draw_image(
    image: ImageLike,
    *,
    detections: Detections | None = None,
    boxes: Column = None,
    labels: Column = None,
    classes: Sequence[str] = (),
    width: int = 720,
) -> Drawing:
    """One image with its detections (solid), its ground truth (dashed), or both.

    `image` is a uint8 tensor (3, H, W), a uint8 array (H, W, 3) or a Pillow image; `detections` those of
    this image, all of which are drawn (thin them out with `at_least`); `boxes` (G, 4) with `labels` (G,)
    the ground truth, which has its class's color where it stands alone and is white beside detections.
    Padding (a label below 0) and boxes that are not finite are left out. The figure is `width` pixels
    wide, less if the image is very tall. Raises ValueError for another image, lengths that differ and a
    label without a name.
    """
    pixels = to_pixels(image)
    high, wide = pixels.shape[:2]
    scale = min(width / wide, 1.5 * width / high)
    both = boxes is not None and detections is not None
    names = (("ground truth", style.TRUTH, True), ("detection", class_color(0), False)) if both else ()
    lines = [_legend_line(*name) for name in names]
    figure, ax = _sheet(max(1, round(wide * scale)), max(1, round(high * scale)), lines)
    frame = show_image(pixels, ax)
    rows = object_rows(frame, detections, boxes, labels, classes)
    draw_rows(ax, rows, frame)
    add_tags(ax, rows, below=both)
    return figure


class Boxes(NamedTuple):
    """Boxes of one kind over an image: corners (B, 4), one color or one each, and how to draw them."""

    corners: Values
    color: str | Sequence[str] = style.PALETTE[0]
    dashed: bool = False
    linewidth: float = 1.5


class View(NamedTuple):
    """An image, what is written above it, and the boxes over it, the lowest layer first."""

    image: ImageLike
    title: str = ""
    layers: Sequence[Boxes] = ()


def plot_views(views: Sequence[View], *, columns: int = 3, cell: int = 320) -> Drawing:
    """Images side by side, each with a title and layers of boxes: what a figure shows at several stops.

    `cell` is an image's side in pixels. Raises ValueError without views and as `draw_image` does.
    """
    if not views:
        raise ValueError("there are no views to draw: pass at least one")
    figure, axes = style.axes_grid(len(views), columns, cell + 12, cell + 40)
    for ax, view in zip(axes, views, strict=True):
        frame = show_image(view.image, ax)
        ax.set_title(view.title, fontsize=9, color=style.INK, loc="left")
        for corners, color, *line in view.layers:
            draw_rows(ax, box_rows(frame, corners, None, None, None, color, *line), frame)
    figure.tight_layout(pad=0.4, w_pad=0.8, h_pad=0.8)
    return figure


def contact_sheet(
    samples: Sequence[Sample],
    classes: Sequence[str],
    *,
    columns: int = 8,
    detections: Sequence[Detections] | None = None,
    cell: int = 128,
) -> Drawing:
    """Many images in a grid with their boxes: ground truth dashed, `detections` (one a sample) solid.

    Images of any size are fitted into cells of `cell` pixels. Ground truth has its class's color, or,
    beside detections, is white; a legend names the colors. Padding rows (label -1) are not drawn. Raises
    ValueError without samples, for a count of detections that differs, or an option out of range.
    """
    samples = list(samples)  # a data set draws an image anew each time it is asked
    if not samples:
        raise ValueError("there are no samples to draw: pass at least one")
    if detections is not None and len(detections) != len(samples):
        raise ValueError(f"{len(detections)} detections for {len(samples)} samples: pass one a sample")
    if columns < 1 or cell < 16:
        raise ValueError(f"columns is {columns} and cell {cell}: pass at least 1 and 16")
    images = [to_pixels(s.image, f"image of sample {i}") for i, s in enumerate(samples)]
    pixels, frames = _grid(images, columns, cell)
    figure, ax = _sheet(*pixels.size, _class_legend(samples, detections, classes))
    show_image(pixels, ax)
    for i, (sample, frame) in enumerate(zip(samples, frames, strict=True)):
        found = detections[i] if detections is not None else None
        draw_rows(ax, object_rows(frame, found, sample.boxes, sample.labels, None, 1.0), frame)
    return figure


def _grid(images: Sequence[NDArray[np.uint8]], columns: int, cell: int) -> tuple[Image.Image, list[Frame]]:
    """Images (H, W, 3) of any sizes in one, and where each lies in it."""
    gap = max(2, cell // 32)
    columns = min(columns, len(images))
    step, rows = cell + gap, math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * step + gap, rows * step + gap), style.PAPER)
    frames = []
    for i, image in enumerate(images):
        left, top = gap + i % columns * step, gap + i // columns * step
        sheet.paste(style.MAT, (left, top, left + cell, top + cell))
        scale = cell / max(image.shape[:2])
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        small = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
        frames.append((left + (cell - width) // 2, top + (cell - height) // 2, width, height))
        sheet.paste(small, frames[-1][:2])
    return sheet, frames


def _class_legend(
    samples: Sequence[Sample], detections: Sequence[Detections] | None, classes: Sequence[str]
) -> list[Line2D]:
    """Names of the classes that occur, if there are several, and of ground truth beside detections."""
    alone = detections is None
    labels = {label for part in (*samples, *(detections or ())) for label in part.labels.tolist()}
    present = sorted(label for label in labels if label >= 0)
    lines = [_legend_line(class_name(label, classes), class_color(label), alone) for label in present]
    if alone:
        return lines if len(classes) > 1 else []
    return [*lines, _legend_line("ground truth", style.TRUTH, True)]


def _legend_line(name: str, color: str, dashed: bool) -> Line2D:
    line = Line2D([], [], color=color, linewidth=2, label=name, linestyle=DASHES if dashed else "-")
    line.set(dash_capstyle="projecting", path_effects=[withStroke(linewidth=3, foreground=style.RIM)])
    return line


def _sheet(width: int, height: int, lines: Sequence[Line2D]) -> tuple[Drawing, Axes]:
    """A figure with axes of so many pixels, and a legend under them if there are lines for it."""
    if not lines:
        figure = style.new_figure(width, height)
        return figure, figure.add_axes((0, 0, 1, 1))
    wide, columns = max(width, 300), len(lines)
    sizes = [11 * len(line.get_label()) + 75 for line in lines]  # pixels, roughly
    if sum(sizes) > wide - 20:  # rows of even length
        columns = math.ceil(columns / math.ceil(columns / max(1, (wide - 20) // max(sizes))))
    foot = 30 * math.ceil(len(lines) / columns) + 14
    total = height + foot
    figure = style.new_figure(wide, total)
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 7 / total), "borderpad": 0, "borderaxespad": 0}
    legend = figure.legend(handles=lines, ncols=columns, fontsize=8, **place, **style.LEGEND)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure, figure.add_axes(((wide - width) / 2 / wide, foot / total, width / wide, height / total))
