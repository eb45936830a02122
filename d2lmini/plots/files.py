"""Images annotated at their own resolution, and files that are whole or absent."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from d2lmini.data.images import to_rgb
from d2lmini.data.output import write_bytes
from d2lmini.detect import Detections
from d2lmini.plots.boxes import Boxes, box_rows
from d2lmini.plots.fonts import font_file
from d2lmini.plots.style import RIM, ImageLike, png, text_color, to_pixels
from d2lmini.plots.tags import TAG_PAD, Row, place_tag

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
LEAST_TYPE = 9  # pixels: smaller type cannot be read


@cache
def _font(size: int, path: str | None) -> Any:
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


def annotate(image: ImageLike, detections: Detections, classes: Sequence[str]) -> Image.Image:
    """A copy of an image, at its own resolution, with boxes, class names and scores drawn into it.

    `image` is one that `draw_image` takes, a Pillow image in any mode. The result is RGB and keeps only the
    color profile. Lines and type grow with the image; a tag that would be unreadable is left out. Raises
    ValueError for another image or a label without a name.
    """
    canvas = Image.fromarray(to_pixels(image))
    if isinstance(image, Image.Image) and image.mode in ("RGB", "RGBA", "P") and "icc_profile" in image.info:
        canvas.info["icc_profile"] = image.info["icc_profile"]
    scale = math.sqrt(math.prod(canvas.size))
    line = max(1, round(scale / 320))
    rim = 0 if scale < 96 else max(1, line // 3)
    draw = ImageDraw.Draw(canvas)
    boxes, scores, labels = detections
    rows = box_rows((0, 0, *canvas.size), Boxes(boxes, None), labels, scores, classes)[::-1]
    for row in rows:  # the best last, on top; outlines go inwards from the border, a rim on both sides
        x0, y0, x1, y1 = _first_and_last(row, canvas.size)
        x1, y1 = max(x1, x0 + line - 1), max(y1, y0 + line - 1)  # the thinnest box is one line thick
        most = (min(x1 - x0, y1 - y0) + 2) // 2  # a thicker outline would turn inside out
        around = (x0 - rim, y0 - rim, x1 + rim, y1 + rim)
        draw.rectangle(around, outline=RIM, width=rim + min(line + rim, most))
        draw.rectangle((x0, y0, x1, y1), outline=row.color, width=min(line, most))
    _draw_tags(draw, rows, max(11, round(scale / 55)), rim)
    return canvas


def _first_and_last(row: Row, size: tuple[int, int]) -> list[int]:
    """First and last pixel (x0, y0, x1, y1) that a box covers, at least one, in an image of that size."""
    start, end = row.corners.reshape(2, 2).clip(0, size).round().astype(int)
    start = np.minimum(start, np.subtract(size, 1))
    return [*start.tolist(), *np.maximum(start, end - 1).tolist()]


def _draw_tags(draw: ImageDraw.ImageDraw, rows: Sequence[Row], points: int, rim: int) -> None:
    """Tags for rows, the best last: it lies on top, but chooses its place first."""
    size, taken, tags = draw.im.size, np.zeros((0, 4)), []
    for row in reversed(rows):
        fit = _fit(row.text, points, size) if row.text else None
        if fit is not None:
            font, pad, room = fit
            box = np.add(_first_and_last(row, size), (-rim, -rim, rim + 1, rim + 1))
            tag = place_tag(box, room, (0, 0, *size), taken)
            taken = np.concatenate([taken, tag[None]])
            tags.append((row, font, pad, tag.round().astype(int).tolist()))
    for row, font, pad, (x0, y0, x1, y1) in reversed(tags):
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=row.color)
        start = x0 + pad, y0 + pad // 2 + font.getmetrics()[0]
        draw.text(start, row.text, fill=text_color(row.color), font=font, anchor="ls")


def _fit(text: str, points: int, size: tuple[int, int]) -> tuple[Any, int, tuple[int, int]] | None:
    """The largest type in which a tag fits an image, its padding, and the tag's width and height."""
    path = None if text.isascii() else font_file(text)
    for type_size in range(points, LEAST_TYPE - 1, -1):
        font = _font(type_size, path)
        pad = max(1, round(TAG_PAD * type_size))
        width, height = math.ceil(font.getlength(text)) + 2 * pad, sum(font.getmetrics()) + pad
        if width <= 0.6 * size[0] and height <= 0.25 * size[1]:
            return font, pad, (width, height)
    return None


def save(drawing: Figure | Image.Image, path: str | Path) -> None:
    """Write a figure or a Pillow image to a .png, .jpg, .jpeg or .webp file, whole or not at all.

    The same drawing gives the same PNG: no date, no version. Raises ValueError for another suffix and for a
    folder that does not exist (none is made) or cannot be written to.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} ends with {path.suffix!r}: choose one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist: make it, or choose another path")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: choose the name of a file")
    image = Image.open(io.BytesIO(png(drawing))) if isinstance(drawing, Figure) else drawing
    buffer = io.BytesIO()
    (to_rgb(image) if kind == "JPEG" else image).save(buffer, kind, quality=92)
    write_bytes(path, buffer.getvalue())
