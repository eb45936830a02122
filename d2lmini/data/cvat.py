"""CVAT's own XML (for images): one file with all images and their shapes, in pixels from 0."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element

from d2lmini.data.entries import Annotation, Found, LoadOptions, Object, as_size, enclose
from d2lmini.data.files import DataError, skipping
from d2lmini.data.lookup import find_images
from d2lmini.data.splits import split_of
from d2lmini.data.voc import parse_xml

FLAT = {"polyline", "points", "skeleton", "cuboid"}


def read_cvat(root: Path, files: Iterable[Path], options: LoadOptions) -> Found:
    """A folder with CVAT's XML, divided by the subsets of its images. Raises DataError naming the image."""
    found, mentioned = [], []
    for path in files:
        top = parse_xml(path)
        if top.find("track") is not None:
            raise DataError(
                f"{path} is of a video: export it as 'CVAT for images' or 'COCO', with its frames"
            )
        for number, image in enumerate(top.iter("image")):
            where = f"{path}, image {number} ({image.get('name')})"
            mentioned.append(image.get("name") or "")
            with skipping(options.faults):
                found.append(_image(image, path, where, split_of(*path.relative_to(root).parts[:-1])))
    return find_images(found, mentioned, root, options)


def _image(image: Element, path: Path, where: str, split: str | None) -> Annotation:
    shapes = [shape for shape in image if shape.tag in ("box", "polygon", "ellipse", "mask")]
    try:
        objects = tuple(_object(shape) for shape in shapes)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: a shape has no label, or no numbers of pixels: correct it") from error
    counts = {
        "enclosed": sum(shape.tag != "box" or _angle(shape) != 0 for shape in shapes),
        "flat": sum(shape.tag in FLAT for shape in image),
    }
    size = as_size(image.get("width"), image.get("height"))
    split = split_of(image.get("subset") or "") or split
    return Annotation(path, where, (image.get("name") or "",), objects, size, split, **counts)


def _object(shape: Element) -> Object:
    """The box around a shape; ValueError for what it lacks."""

    def numbers(*keys: str) -> list[float]:
        return [float(shape.get(key) or "") for key in keys]

    name = (shape.get("label") or "").strip()
    if not name:
        raise ValueError("no label")
    if shape.tag == "polygon":
        points = [point.split(",") for point in (shape.get("points") or "").split(";")]
        return Object(name, enclose([(float(x), float(y)) for x, y in points]))
    if shape.tag == "mask":
        left, top, width, height = numbers("left", "top", "width", "height")
        return Object(name, (left, top, left + width, top + height))
    if shape.tag == "ellipse":
        x, y, across, down = numbers("cx", "cy", "rx", "ry")
        return Object(name, (x - across, y - down, x + across, y + down))
    left, top, right, bottom = numbers("xtl", "ytl", "xbr", "ybr")
    if not (angle := _angle(shape)):
        return Object(name, (left, top, right, bottom))
    cos, sin = abs(math.cos(angle)) / 2, abs(math.sin(angle)) / 2
    width, height, x, y = right - left, bottom - top, (left + right) / 2, (top + bottom) / 2
    across, down = width * cos + height * sin, width * sin + height * cos
    return Object(name, (x - across, y - down, x + across, y + down))


def _angle(shape: Element) -> float:
    """By how much a box is turned about its center, in radians."""
    return math.radians(float(shape.get("rotation") or 0))
