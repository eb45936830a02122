"""LabelMe's form: a JSON file for each image, with shapes of many kinds; the boxes around them are taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from d2lmini.data.entries import Annotation, Found, LoadOptions, Object, as_size, enclose
from d2lmini.data.files import DataError, skipping
from d2lmini.data.lookup import find_images
from d2lmini.data.splits import split_of

FLAT = {"point", "points", "line", "linestrip"}  # shapes that have no inside


def is_labelme(content: Any) -> bool:
    """Whether a JSON file's content is meant in LabelMe's form."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read_labelme(root: Path, contents: Mapping[Path, dict], options: LoadOptions) -> Found:
    """A folder in LabelMe's form, its JSON files read. Raises DataError naming the file and shape."""
    found = []
    for path, content in contents.items():
        with skipping(options.faults):
            shapes = [_shape(shape, f"{path}, shapes[{i}]") for i, shape in enumerate(content["shapes"])]
            objects = tuple(one for kind, one in shapes if kind not in FLAT)
            counts = {
                "flat": len(shapes) - len(objects),
                "enclosed": sum(kind not in FLAT | {"rectangle"} for kind, _ in shapes),
            }
            names = path.stem, str(content.get("imagePath") or "")
            size = as_size(content.get("imageWidth"), content.get("imageHeight"))
            split = split_of(*path.relative_to(root).parts[:-1])
            found.append(Annotation(path, str(path), names, objects, size, split, **counts))
    return find_images(found, (path.stem for path in contents), root, options)


def _shape(shape: Any, where: str) -> tuple[str, Object]:
    """The kind of a shape, and the box around it."""
    with suppress(AttributeError, KeyError, TypeError, ValueError, OverflowError):
        kind, name = shape.get("shape_type") or "polygon", str(shape["label"]).strip()
        points = [(float(x), float(y)) for x, y in shape["points"]]
        if kind == "circle":  # its center, and a point on it
            (x, y), on = points
            radius = math.dist((x, y), on)
            points = [(x - radius, y - radius), (x + radius, y + radius)]
        if name:
            return str(kind), Object(name, enclose(points))
    raise DataError(f"{where} has no label, or no points in pixels: correct or remove it")
