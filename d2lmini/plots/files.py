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

from d2lmini.checkpoint import write_bytes
from d2lmini.data.images import to_rgb
from d2lmini.detect import Detections
from d2lmini.plots.boxes import object_rows
from d2lmini.plots.style import RIM, ImageLike, png, text_color, to_pixels
from d2lmini.plots.tags import TAG_PAD, Row, place_tag

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
LEAST_TYPE = 9  # pixels: smaller type cannot be read
_font = cache(ImageFont.load_default)


def annotate(image: ImageLike, detections: Detections, classes: Sequence[str]) -> Image.Image:
    """A copy of an image, at its own resolution, with boxes, class names and scores drawn into it.

    `image` is a Pillow image of any mode and size or one that `draw_image` takes; it is not modified. The
    result is RGB and keeps only the color profile of the original. Lines and type grow with the image;
    where a tag does not fit it shrinks, and is left out rather than unreadable. Raises ValueError for
    another image or a label without a name.
    """
    canvas = Image.fromarray(to_pixels(image))
    if isinstance(image, Image.Image) and image.mode in ("RGB", "RGBA", "P") and "icc_profile" in image.info:
        canvas.info["icc_profile"] = image.info["icc_profile"]
    width, height = canvas.size
    scale = math.sqrt(width * height)
    line = max(1, round(scale / 320))
    rim = 0 if scale < 96 else max(1, line // 3)
    draw = ImageDraw.Draw(canvas)
    rows = object_rows((0, 0, width, height), detections, None, None, classes)
    for row in rows:
        _draw_edge(draw, row, line, rim)
    _draw_tags(draw, rows, max(11, round(scale / 55)), rim)
    return canvas


def _first_and_last(row: Row, size: tuple[int, int]) -> list[int]:
    """First and last pixel (x0, y0, x1, y1) that a box covers, at least one, in an image of that size."""
    start, end = row.corners.reshape(2, 2).clip(0, size).round().astype(int)
    start = np.minimum(start, np.subtract(size, 1))
    return [*start.tolist(), *np.maximum(start, end - 1).tolist()]


def _draw_edge(draw: ImageDraw.ImageDraw, row: Row, line: int, rim: int) -> None:
    """A box's outline, inwards from its border, with a dark rim on both sides."""
    x0, y0, x1, y1 = _first_and_last(row, draw.im.size)
    x1, y1 = max(x1, x0 + line - 1), max(y1, y0 + line - 1)  # the thinnest box is one line thick
    most = (min(x1 - x0, y1 - y0) + 2) // 2  # a thicker outline would turn inside out
    if rim:
        around = (x0 - rim, y0 - rim, x1 + rim, y1 + rim)
        draw.rectangle(around, outline=RIM, width=rim + min(line + rim, most))
    draw.rectangle((x0, y0, x1, y1), outline=row.color, width=min(line, most))


def _draw_tags(draw: ImageDraw.ImageDraw, rows: Sequence[Row], points: int, rim: int) -> None:
    """Tags for rows, the best last: it lies on top, but chooses its place first."""
    size, taken, tags = draw.im.size, np.zeros((0, 4)), []
    for row in reversed(rows):
        fit = _fit(row.text, points, size) if row.text else None
        if fit is not None:
            font, pad, room = fit
            box = np.add(_first_and_last(row, size), (-rim, -rim, rim + 1, rim + 1))
            tag = place_tag(box, room, (0, 0, *size), taken, False)
            taken = np.concatenate([taken, tag[None]])
            tags.append((row, font, pad, tag.round().astype(int).tolist()))
    for row, font, pad, (x0, y0, x1, y1) in reversed(tags):
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=row.color)
        start = x0 + pad, y0 + pad // 2 + font.getmetrics()[0]
        draw.text(start, row.text, fill=text_color(row.color), font=font, anchor="ls")


def _fit(text: str, points: int, size: tuple[int, int]) -> tuple[Any, int, tuple[int, int]] | None:
    """The largest type in which a tag fits an image, its padding, and the tag's width and height."""
    while True:
        font = _font(points)
        pad = max(1, round(TAG_PAD * points))
        width, height = math.ceil(font.getlength(text)) + 2 * pad, sum(font.getmetrics()) + pad
        if width <= 0.6 * size[0] and height <= 0.25 * size[1]:
            return font, pad, (width, height)
        if points <= LEAST_TYPE:
            return None
        points = max(LEAST_TYPE, int(points * 0.82))


def save(drawing: Figure | Image.Image, path: str | Path) -> None:
    """Write a figure or a Pillow image to a file, whole or not at all; the suffix tells the format.

    Suffixes: .png, .jpg, .jpeg, .webp. A PNG has no date and no version in it: the same drawing gives the
    same file. Raises ValueError for another suffix and a folder that does not exist (none is made) or
    cannot be written to.
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
    try:
        write_bytes(path, buffer.getvalue())
    except PermissionError as error:
        raise ValueError(f"cannot write to {path} ({error}): choose another folder") from error
