"""Images with boxes: one, several side by side, or a sheet of many.

A color is a class, a solid line a detection, a dashed one ground truth; a dark rim sets off every line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

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
from d2lmini.plots.fonts import drawable, fit_font
from d2lmini.plots.style import Drawing, ImageLike, Values, class_color, to_array, to_pixels
from d2lmini.plots.tags import RIM_WIDTH, Row, add_tags

DASHES = (0, (2.0, 3.0))  # in line widths; caps make dashes one longer and close the rim around them
Frame = tuple[float, float, float, float]  # left, top, width and height of an image in its axes
Column = Values | None
Names = Sequence[str]


class Boxes(NamedTuple):
    """Boxes over an image: corners (B, 4), a color or one each (None: that of the class), and the line."""

    corners: Values
    color: str | Sequence[str] | None = style.PALETTE[0]
    dashed: bool = False
    linewidth: float = 1.5


class View(NamedTuple):
    """An image, what is written above it, and the boxes over it, the lowest layer first."""

    image: ImageLike
    title: str = ""
    layers: Sequence[Boxes] = ()


def box_rows(
    frame: Frame, layer: Boxes, labels: Column = None, scores: Column = None, classes: Names = ()
) -> list[Row]:
    """What is to be drawn of a layer: no padding (label below 0), nothing not finite."""
    corners, colors = to_array(layer.corners), layer.color
    corners = corners.reshape(0, 4) if corners.size == 0 else corners
    count = len(corners)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"boxes are {corners.shape}: pass (G, 4), those of one image")
    if colors is not None and not isinstance(colors, str) and len(colors) != count:
        raise ValueError(f"{len(colors)} colors for {count} boxes: pass one, or one for each")
    ids, values = (np.full(count, None) if v is None else to_array(v) for v in (labels, scores))
    for name, column in (("labels", ids), ("scores", values)):
        if column.shape != (count,):
            raise ValueError(f"{name} is {column.shape} for {count} boxes: pass one for each box")
    rows = []
    for i, box in enumerate(corners * (frame[2:] * 2) + frame[:2] * 2):
        label = int(ids[i] or 0)
        if label < 0 or not np.isfinite(box).all():
            continue
        color = colors if isinstance(colors, str) else colors[i] if colors else class_color(label)
        name = class_name(label, classes) if classes and ids[i] is not None else ""
        score = "" if values[i] is None else f"{values[i]:.2f}"
        rows.append(Row(box, color, f"{name} {score}".strip(), layer.dashed, layer.linewidth))
    return rows


def class_name(label: int, classes: Names) -> str:
    """The name of a class as it can be drawn. Raises ValueError for a label without a name."""
    if label >= len(classes):
        raise ValueError(f"label {label} has no name, there are {len(classes)} classes: pass all their names")
    return drawable(str(classes[label]))


def draw_rows(ax: Axes, rows: Sequence[Row], frame: Frame) -> None:
    """One rectangle for each row, with a dark rim, cut off at the frame."""
    window = Rectangle(frame[:2], *frame[2:], transform=ax.transData)
    for row in rows:
        (x0, y0, x1, y1), width = row.corners, row.linewidth
        edge = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=row.color, linewidth=width)
        edge.set(linestyle=DASHES if row.dashed else "-", zorder=3, joinstyle="miter", capstyle="projecting")
        edge.set_path_effects([withStroke(linewidth=width + RIM_WIDTH, foreground=style.RIM)])
        ax.add_artist(edge)  # `add_patch` would measure each, too: the image has the limits already
        edge.set_clip_path(window)


def show_image(image: ImageLike, ax: Axes) -> Frame:
    """Fill axes with an image, one data unit per pixel, from edge to edge; returns where it lies."""
    pixels = to_pixels(image)
    height, width = pixels.shape[:2]
    ax.imshow(pixels, extent=(0, width, height, 0), interpolation="antialiased", origin="upper")
    ax.set_axis_off()
    return 0, 0, width, height


def draw_image(
    image: ImageLike, *, boxes: Values = (), labels: Column = None, classes: Names = (), width: int = 720
) -> Drawing:
    """One image with its ground truth: `boxes` (G, 4) dashed, in the colors of their `labels` (G,).

    `image` is a uint8 tensor (3, H, W), a uint8 array (H, W, 3) or a Pillow image. Padding (a label below 0)
    and boxes that are not finite are left out. The figure is `width` pixels wide, less if the image is very
    tall. Raises ValueError for another image, lengths that differ and a label without a name.
    """
    pixels = to_pixels(image)
    high, wide = pixels.shape[:2]
    scale = min(width / wide, 1.5 * width / high)
    figure = style.new_figure(max(1, round(wide * scale)), max(1, round(high * scale)))
    ax = figure.add_axes((0, 0, 1, 1))
    frame = show_image(pixels, ax)
    rows = box_rows(frame, Boxes(boxes, None, dashed=True), labels, None, classes)
    draw_rows(ax, rows, frame)
    add_tags(ax, rows)
    return figure


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
        for layer in view.layers:
            draw_rows(ax, box_rows(frame, layer), frame)
    figure.tight_layout(pad=0.4, w_pad=0.8, h_pad=0.8)
    return figure


def contact_sheet(
    samples: Sequence[Sample],
    classes: Names,
    *,
    columns: int = 8,
    detections: Sequence[Detections] | None = None,
    cell: int = 128,
) -> Drawing:
    """Many images in a grid with their boxes: ground truth dashed, `detections` (one a sample) solid.

    Images are fitted into cells of `cell` pixels. Ground truth has its class's color, or, beside detections,
    is white; a legend names the colors. Raises ValueError as `draw_image` does, without samples, for a count
    of detections that differs, and for an option out of range.
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
    labels = {label for part in (*samples, *(detections or ())) for label in part.labels.tolist()}
    truth = any(len(sample.labels) for sample in samples)
    figure, ax = _sheet(*pixels.size, labels, classes, detections is None, truth)
    show_image(pixels, ax)
    color, width = (None, 1.0) if detections is None else (style.TRUTH, 0.5)
    for i, (sample, frame) in enumerate(zip(samples, frames, strict=True)):
        if detections is not None:
            found = box_rows(frame, Boxes(detections[i].boxes, None, linewidth=1.0), detections[i].labels)
            draw_rows(ax, found[::-1], frame)  # the best on top
        draw_rows(ax, box_rows(frame, Boxes(sample.boxes, color, True, width), sample.labels), frame)
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


def _sheet(
    width: int, height: int, labels: set[int], classes: Names, alone: bool, truth: bool
) -> tuple[Drawing, Axes]:
    """A figure with axes of so many pixels, and a legend of several classes or ground truth under them."""
    present = sorted(label for label in labels if label >= 0)
    entries = [
        (class_name(label, classes), class_color(label), DASHES if alone else "-") for label in present
    ]
    entries += [("ground truth", style.TRUTH, DASHES)] if truth and not alone else []
    if not entries or (alone and len(classes) == 1):
        figure = style.new_figure(width, height)
        return figure, figure.add_axes((0, 0, 1, 1))
    rim = [withStroke(linewidth=3, foreground=style.RIM)]
    look = {"linewidth": 2, "dash_capstyle": "projecting", "path_effects": rim}
    lines = [Line2D([], [], color=color, ls=dash, **look) for _, color, dash in entries]
    wide, longest = max(width, 300), max(len(name) for name, *_ in entries)
    columns = min(len(lines), max(1, (wide - 20) // (11 * longest + 75)))  # pixels of an entry, roughly
    foot = 30 * math.ceil(len(lines) / columns) + 14
    total = height + foot
    figure = style.new_figure(wide, total)
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 7 / total), "borderpad": 0, "borderaxespad": 0}
    empty = [" "] * len(lines)  # a name that begins with _ would be left out
    legend = figure.legend(lines, empty, ncols=columns, fontsize=8, **place, **style.LEGEND)
    for text, (name, *_) in zip(legend.get_texts(), entries, strict=True):
        text.set(text=name, parse_math=False)
        fit_font(text)
    return figure, figure.add_axes(((wide - width) / 2 / wide, foot / total, width / wide, height / total))
