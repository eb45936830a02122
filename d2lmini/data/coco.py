"""COCO's form: one JSON file of instances, with all images, classes and boxes of a split.

Boxes are (left, top, width, height) in pixels from 0; ids may be anything that is not used twice.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from d2lmini.data.entries import (
    EXPECTED,
    Annotation,
    Entry,
    Found,
    LoadOptions,
    Object,
    as_size,
    enclose,
    is_marked,
)
from d2lmini.data.files import DataError, skipping
from d2lmini.data.lookup import ImageIndex
from d2lmini.data.splits import SPLITS, group_by_split, split_of

KINDS = {"name": (str,), "bbox": (list,)}


def is_coco(content: Any) -> bool:
    """Whether a JSON file's content is meant in COCO's form."""
    return isinstance(content, dict) and any(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    )


def read_coco(root: Path, contents: Mapping[Path, dict], options: LoadOptions) -> Found:
    """A folder in COCO's form, its JSON files read. Classes do not depend on the split. Raises DataError."""
    classes = {name for path, content in contents.items() for name in read_categories(content, path).values()}
    splits = {path: split_of(*path.relative_to(root).parts[:-1], file=path.stem) for path in contents}
    groups, index = group_by_split(splits, root, options), ImageIndex(root)
    for part in groups.keys() & {*SPLITS}:
        if len(groups[part]) > 1:
            there = ", ".join(path.name for path in groups[part])
            raise DataError(f"{root} has more than one JSON file for {part} ({there}): keep one")

    for path, content in contents.items():
        index.mention(str(_name(record)) for record, _ in _records(content, "images", path))

    def entries(paths: list[Path], options: LoadOptions) -> list[Entry]:
        read = [one for p in paths for one in _annotations(contents[p], p, splits[p], options)]
        found = index.entries(read, options)
        options.note_unannotated(index.beside({entry.image for entry in found}), root)
        return found

    return Found({part: partial(entries, paths) for part, paths in groups.items()}, classes)


def _annotations(content: dict, path: Path, split: str | None, options: LoadOptions) -> list[Annotation]:
    """What one file holds; an image with a faulty record goes whole, as its objects are not all known."""
    classes, (images, faulty) = read_categories(content, path), _images(content, path, split, options)
    _refuse_corners(content, path, images)
    objects: dict[Any, list[Object]] = {key: [] for key in images}
    left_out, enclosed = Counter[Any](), Counter[Any]()
    for record, where in _records(content, "annotations", path):
        key = None
        with skipping(options.faults):
            if (key := read_id(record, "image_id", where)) in faulty:
                continue
            found, outlined = _object(record, key, classes, images, where)
            if options.difficult or not is_marked(record.get("iscrowd")):
                objects[key].append(found)
                enclosed[key] += outlined
            else:
                left_out[key] += 1
            continue
        faulty.add(key)
    counts = {key: {"left_out": left_out[key], "enclosed": enclosed[key]} for key in images}
    return [
        image._replace(objects=tuple(objects[key]), **counts[key])
        for key, image in images.items()
        if key not in faulty
    ]


def read_categories(content: dict, path: Path) -> dict[Any, str]:
    """Class names by their ids, which need not be in a row."""
    classes: dict[Any, str] = {}
    for record, where in _records(content, "categories", path):
        key, name = read_id(record, "id", where), _get(record, "name", where).strip()
        if not name:
            raise DataError(f"{where}: 'name' is empty: give the class a name")
        if classes.setdefault(key, name) != name:
            raise DataError(f"{where}: the id {key!r} is used twice: ids must differ")
    return classes


def _images(
    content: dict, path: Path, split: str | None, options: LoadOptions
) -> tuple[dict[Any, Annotation], set]:
    """The records of images by their ids, and faulty ids: objects of one used twice are nobody's."""
    images: dict[Any, Annotation] = {}
    faulty = set()
    for record, where in _records(content, "images", path):
        key = None
        with skipping(options.faults):
            key = read_id(record, "id", where)
            if key in images:
                raise DataError(f"{where}: the id {key!r} is used twice: ids must differ")
            size = as_size(record.get("width"), record.get("height"))
            if not isinstance(name := _name(record), str):
                raise DataError(f"{where}: 'file_name' is {name!r:.80}: it is missing or of the wrong kind")
            images[key] = Annotation(path, f"{path}, image {key}", (name,), (), size, split, key=key)
            continue
        faulty.add(key)
    return images, faulty


def _name(image: dict) -> Any:
    return image.get("file_name") or image.get("coco_url")  # LVIS has no names


def _records(content: dict, key: str, path: Path) -> Iterator[tuple[dict, str]]:
    """The records of one list, each with what to call it in a message."""
    records = content.get(key)
    if not isinstance(records, list):
        raise DataError(f"{path} has no list {key!r}: {EXPECTED}")
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{path}, {key}[{i}] is {record!r:.80}: it must be an object")
        yield record, f"{path}, {key}[{i}]"


def _get(record: dict, key: str, where: str) -> Any:
    """A field that must be there."""
    value = record.get(key)
    if not isinstance(value, KINDS[key]):
        raise DataError(f"{where}: {key!r} is {value!r:.80}: it is missing or of the wrong kind")
    return value


def read_id(record: dict, key: str, where: str) -> int | str:
    """An id: a number or text, the same however it is written (7, 7.0 and "7")."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise DataError(f"{where}: {key!r} is {value!r:.80}: it is missing or of the wrong kind")
    if isinstance(value, float) or (isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,15}(\.0*)?", value)):
        return int(float(value)) if float(value).is_integer() else str(value)
    return value


def _object(record: dict, image: Any, classes: dict, images: dict, where: str) -> tuple[Object, bool]:
    """The object of a record, and whether its box is that around an outline."""
    for key, value, known in (("image_id", image, images), ("category_id", None, classes)):
        value = read_id(record, key, where) if value is None else value
        if value not in known:
            raise DataError(f"{where}: {key!r} is {record[key]!r}, which is not in the file: add it")
    name, size = classes[value], images[image].size
    if record.get("bbox") in (None, [], [0, 0, 0, 0]) and (
        outline := _outline(record.get("segmentation"), size)
    ):
        return Object(name, outline), True
    return Object(name, _box(record, where)), False


def _box(record: dict, where: str) -> tuple[float, float, float, float]:
    said = f"{where}: 'bbox' is {_get(record, 'bbox', where)!r:.80}"
    try:
        left, top, width, height = map(float, record["bbox"])
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{said}: give left, top, width and height in pixels") from error
    if not all(map(math.isfinite, (left, top, width, height))):
        raise DataError(f"{said}: it must be finite; correct or remove it")
    return left, top, left + width, top + height


def _outline(segmentation: Any, size: tuple[int, int] | None) -> tuple[float, float, float, float] | None:
    """The box around polygons [[x, y, …], …] or a mask in run lengths; None for what is neither."""
    with suppress(TypeError, ValueError, KeyError, IndexError, OverflowError):
        if isinstance(segmentation, dict):
            return _around_runs(segmentation["counts"], int(segmentation["size"][0]))
        numbers = [[float(value) for value in polygon] for polygon in segmentation]
        return enclose(point for line in numbers for point in zip(line[::2], line[1::2], strict=True))
    return None


def _around_runs(counts: Any, height: int) -> tuple[float, float, float, float]:
    """The box around a mask whose runs, column by column, are outside and inside in turn."""
    runs = _uncompress(counts) if isinstance(counts, str) else [int(count) for count in counts]
    at, corners = 0, []
    for i, length in enumerate(runs):
        if i % 2 and length > 0:
            (x0, y0), (x1, y1) = divmod(at, height), divmod(at + length - 1, height)
            corners += [(x0, y0 if x0 == x1 else 0), (x1 + 1, y1 + 1 if x0 == x1 else height)]
        at += length
    return enclose(corners)


def _uncompress(counts: str) -> list[int]:
    """Run lengths from COCO's text: six bits a letter, the lowest first, differences from the fourth on."""
    runs: list[int] = []
    value = shift = 0
    for letter in counts:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _refuse_corners(content: dict, path: Path, images: Mapping[Any, Annotation]) -> None:
    """Raise DataError where boxes reach out of their images, but none would, were they two corners."""
    as_sides, as_corners = [], []
    for record, where in _records(content, "annotations", path):
        with suppress(DataError):
            size = images[key].size if (key := read_id(record, "image_id", where)) in images else None
            if size is not None:
                left, top, right, bottom = _box(record, where)
                as_sides.append(right <= size[0] + 1 and bottom <= size[1] + 1)
                right, bottom = right - left, bottom - top
                inside = right <= size[0] + 1 and bottom <= size[1] + 1
                as_corners.append(inside and right > left and bottom > top)
    if not all(as_sides) and all(as_corners) and len(as_corners) > 2:
        both = "left, top, right, bottom, but COCO's form is left, top, width, height"
        raise DataError(f"{path}: every 'bbox' seems to be {both}: convert them")
