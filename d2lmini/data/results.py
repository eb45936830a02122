"""Detections in COCO's form for results: a JSON list, in which each has an image, a category, a box, a score.

Boxes are (left, top, width, height) in pixels of the image, from 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d2lmini.data.annotated import AnnotatedImages
from d2lmini.data.coco import read_id
from d2lmini.data.detections import Detections
from d2lmini.data.files import DataError, parse_json
from d2lmini.data.folders import coco_categories
from d2lmini.data.images import read_image

FORM = "COCO's results, [{image_id, category_id, bbox, score}, …]"


def coco_results(found: Detections, size: tuple[int, int], image: str, classes: Sequence[str]) -> list[dict]:
    """The rows of an image of `size` (height, width); its id is its name, or a name's number.

    Categories count from 1 and have their names beside them, as `category`.
    """
    boxes = found.in_pixels(size).double().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    key = int(image) if image.isdecimal() else image
    return [
        {"image_id": key, "category_id": label + 1, "category": classes[label]}
        | {"bbox": [round(side, 2) for side in box], "score": round(score, 5)}
        for box, score, label in rows
    ]


def image_sizes(data: AnnotatedImages) -> list[tuple[int, int]]:
    """(height, width) in pixels of each image: as its annotation says, or else of the file."""
    sizes = [entry.size or read_image(entry.image).size for entry in data.entries]
    return [(height, width) for width, height in sizes]


def read_results(
    path: Path, data: AnnotatedImages, root: Path, sizes: Sequence[tuple[int, int]]
) -> tuple[list[Detections], list[str]]:
    """The detections of a results file on each image of a folder, and what is to be said of the rest.

    An image's id is that of the folder's own COCO file, or else the image's name, with or without its ending,
    or the number that the name is. A category is known by its name (`category`), by its id in the folder's
    COCO file, or as a place in the folder's classes, from 1 (from 0 if the file has a 0). Raises DataError
    naming the file and row, and where no row is of one of the images.
    """
    rows = _read(path)
    places, (categories, notes) = _places(data), _category_places(rows, data, root)
    columns: list[tuple[list, list, list]] = [([], [], []) for _ in sizes]
    others = 0
    for i, row in enumerate(rows):
        where = f"{path}, [{i}]"
        place = places.get(str(read_id(row, "image_id", where)))
        if place is None:
            others += 1
            continue
        corners, score = _numbers(row, where)
        named = row.get("category", read_id(row, "category_id", where))
        if named not in categories:
            there = ", ".join(map(str, categories))
            raise DataError(f"{where}: the category {named!r} is none of {there}: correct it")
        for column, value in zip(columns[place], (corners, score, categories[named]), strict=True):
            column.append(value)
    if others == len(rows):
        raise DataError(f"{path} has no detection on these images: is it of this data and split?")
    if others:
        notes.append(f"{path}: {others} of {len(rows)} detections are on other images and are not used")
    made = zip(columns, sizes, strict=True)
    return [Detections.from_pixels(*column, size) for column, size in made], notes


def _read(path: Path) -> list[dict]:
    rows = parse_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds no list of detections: expected {FORM}")
    return rows


def _places(data: AnnotatedImages) -> dict[str, int]:
    """Where an image is by what it may be called; ids go before names, names before their numbers."""
    places: dict[str, int] = {}
    for name in (
        lambda entry: entry.key,
        lambda entry: entry.image.name,
        lambda entry: entry.image.stem,
        lambda entry: int(entry.image.stem) if entry.image.stem.isdecimal() else None,
    ):
        new: dict[str, list[int]] = {}
        for i, entry in enumerate(data.entries):
            new.setdefault(str(name(entry)), []).append(i)
        new.pop("None", None)
        places = {key: some[0] for key, some in new.items() if len(some) == 1} | places
    return places


def _category_places(
    rows: Sequence[Mapping], data: AnnotatedImages, root: Path
) -> tuple[dict[Any, int], list[str]]:
    """The place of each class by its name and by its id, and a note where ids had to be guessed."""
    names = {name: i for i, name in enumerate(data.classes)}
    if data.entries[0].key is not None:
        return names | {key: names[n] for key, n in coco_categories(root).items() if n in names}, []
    start = 0 if any(row.get("category_id") == 0 for row in rows) else 1
    told = all("category" in row for row in rows)
    note = f"categories are taken to count from {start}: {start} is {data.classes[0]}"
    return names | {i + start: i for i in names.values()}, [] if told else [note]


def _numbers(row: Mapping, where: str) -> tuple[list[float], float]:
    """Corners in pixels, and the score."""
    try:
        left, top, width, height = map(float, row["bbox"])
        score = float(row["score"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where} has no bbox of four numbers and a score: expected {FORM}") from error
    if not all(map(math.isfinite, (left, top, width, height, score))) or min(width, height) < 0:
        raise DataError(f"{where}: bbox or score is not finite, or a side is negative: correct it")
    return [left, top, left + width, top + height], score
