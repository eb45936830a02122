"""COCO's form: one JSON file of instances, with all pictures, classes and boxes of a split.

Boxes are (left, top, width, height) in pixels from 0; ids may be anything that is not used twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2lmini.data import files as on_disk
from d2lmini.data.annotated import Edges, Entry, Found, Object, Reading
from d2lmini.data.files import DataError, inner, read_bytes, skipping
from d2lmini.data.voc import SPLITS

EXPECTED = (
    "expected PASCAL VOC (a folder Annotations of XML files, pictures in JPEGImages or images) or "
    "COCO (a JSON file of instances, here or in annotations, and a folder of pictures)"
)
MAX_JSON = 2 * 2**30  # bytes; COCO's own are 0.5 GB
LOOKED_AT = 200  # names for which a folder of pictures is chosen
KINDS = {"name": (str,), "file_name": (str,), "bbox": (list,)}


def json_files(root: Path) -> list[Path]:
    """JSON files in the folder or its annotations, or else below; those of instances only, where names
    tell."""
    near = [path for path in on_disk.content(root) if path.is_dir() and path.name.lower() == "annotations"]
    files = [path for folder in (root, *near) for path in on_disk.files(folder, [".json"])]
    if not files:
        files = [path for folder in on_disk.folders(root) for path in on_disk.files(folder, [".json"])]
    instances = [path for path in files if path.name.startswith("instances")]
    return instances or files


def _is_for(path: Path, split: str) -> bool:
    """Whether a file's name names a split: train.json, instances_train2017.json."""
    words = "".join(c if c.isalpha() else " " for c in path.stem.lower()).split()
    return any(name in words for name in SPLITS[split])


def read_coco(root: Path, files: list[Path], split: str, reading: Reading) -> Found:
    """The pictures of a split of a folder in COCO's form, or all, where no file is for a split.

    All files are read, also those of other splits: what the classes are must not depend on it. Raises
    DataError naming the file and record.
    """
    splits = {name: [file for file in files if _is_for(file, name)] for name in SPLITS}
    divided = {name: found for name, found in splits.items() if found} or {"all": files}
    for name, found in divided.items():
        if len(found) > 1:
            there = ", ".join(file.name for file in found)
            raise DataError(f"{root} has more than one JSON file for {name} ({there}): keep one")
    if split not in (*divided, "all") and "all" not in divided:
        there = ", ".join(divided)
        raise DataError(f"{root} has no JSON file for {split}, but for {there}: ask for one of those")
    entries, classes = [], set()
    for name, (file,) in divided.items():
        content = _load(file)
        classes.update(_categories(content, file).values())
        if name == split or split not in divided:
            entries += _entries(content, file, root, reading)
    return Found(entries, classes, "all" not in divided)


def _entries(content: dict, path: Path, root: Path, reading: Reading) -> list[Entry]:
    """The entries of one file of instances; DataError names the record and what it lacks.

    Where faults are skipped, a picture with a faulty record goes as a whole: an object without its box
    would be taught as background.
    """
    classes, images = _categories(content, path), _images(content, path, reading)
    objects: dict[Any, list[Object]] = {key: [] for key in images}
    faulty, left_out = set(), 0
    for record, where in _records(content, "annotations", path):
        with skipping(reading.faults):
            found = _object(record, classes, images, where)
            if reading.difficult or not record.get("iscrowd"):
                objects[record["image_id"]].append(found)
            else:
                left_out += 1
            continue
        faulty.add(_hashable(record.get("image_id")))
    reading.note_left_out(left_out, root)
    images = {key: image for key, image in images.items() if key not in faulty}
    folder = picture_folder(root, path, [name for name, _ in images.values()])
    _note_pictures(folder, {name for name, _ in images.values()}, reading)
    return [
        Entry(folder / name, tuple(objects[key]), f"{path}, image {key}", size)
        for key, (name, size) in images.items()
    ]


def _load(path: Path) -> dict:
    try:
        content = json.loads(read_bytes(path, MAX_JSON).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as JSON ({error}): correct or remove it") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no object at the top: {EXPECTED}")
    return content


def _categories(content: dict, path: Path) -> dict[Any, str]:
    """Class names by their ids, which need not be in a row."""
    classes: dict[Any, str] = {}
    for record, where in _records(content, "categories", path):
        key, name = _get(record, "id", where), _get(record, "name", where).strip()
        if not name:
            raise DataError(f"{where}: 'name' is empty: give the class a name")
        if classes.setdefault(key, name) != name:
            raise DataError(f"{where}: the id {key!r} is used twice: ids must differ")
    return classes


def _images(content: dict, path: Path, reading: Reading) -> dict[Any, tuple[str, tuple[int, int] | None]]:
    """File names and sizes by image ids."""
    images: dict[Any, tuple[str, tuple[int, int] | None]] = {}
    names: set[str] = set()
    for record, where in _records(content, "images", path):
        with skipping(reading.faults):
            key, name = _get(record, "id", where), str(inner(_get(record, "file_name", where), where))
            if key in images:
                raise DataError(f"{where}: the id {key!r} is used twice: ids must differ")
            if name in names:  # each record would teach the other's objects as background
                raise DataError(f"{where}: the picture {name!r} was named before: give it one record")
            images[key] = name, _size(record)
            names.add(name)
    return images


def _records(content: dict, key: str, path: Path) -> list[tuple[dict, str]]:
    """The records of one list, each with what to call it in a message."""
    records = content.get(key)
    if not isinstance(records, list):
        raise DataError(f"{path} has no list {key!r}: {EXPECTED}")
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{path}, {key}[{i}] is {_short(record)}: it must be an object")
    return [(record, f"{path}, {key}[{i}]") for i, record in enumerate(records)]


def _get(record: dict, key: str, where: str) -> Any:
    """A field that must be there: a name is text, an id is a number or text."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, KINDS.get(key, (int, str))):
        raise DataError(f"{where}: {key!r} is {_short(value)}: it is missing or of the wrong kind")
    return value


def _short(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _hashable(key: object) -> object:
    return key if isinstance(key, (int, str)) else None


def _size(record: dict) -> tuple[int, int] | None:
    size = record.get("width"), record.get("height")
    return size if all(isinstance(side, int) and side > 0 for side in size) else None


def _object(record: dict, classes: dict, images: dict, where: str) -> Object:
    for key, known in (("image_id", images), ("category_id", classes)):
        if _get(record, key, where) not in known:
            raise DataError(f"{where}: {key!r} is {record[key]!r}, which is not in the file: add it")
    return Object(classes[record["category_id"]], _edges(_get(record, "bbox", where), where))


def _edges(box: list, where: str) -> Edges:
    try:
        left, top, width, height = (float(number) for number in box)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where}: 'bbox' is {_short(box)}: give left, top, width and height in pixels"
        ) from error
    if not all(map(math.isfinite, (left, top, width, height))):
        raise DataError(f"{where}: 'bbox' is {_short(box)}: it must be finite; correct or remove it")
    return left, top, left + width, top + height


def picture_folder(root: Path, path: Path, names: Sequence[str]) -> Path:
    """The folder that a JSON file's names are meant in: the one that has the most of them."""
    stem = path.stem.removeprefix("instances_")  # COCO's own pictures are in train2017
    split = [name for first, *more in SPLITS.values() if _is_for(path, first) for name in (first, *more)]
    below = ["", "images", "JPEGImages", stem, *split, *(f"images/{s}" for s in (stem, *split))]
    likely = [path.parent, *(root / name for name in below if (root / name).is_dir())]
    others = [name for name in SPLITS if not _is_for(path, name)]
    likely += [
        folder
        for folder in on_disk.content(root)
        if folder.is_dir() and not any(_is_for(folder, name) for name in others)
    ]
    some = names[:: max(1, len(names) // LOOKED_AT)]
    counts = {folder: sum(on_disk.is_file(folder / name) for name in some) for folder in likely}
    best = max(counts, key=counts.__getitem__)  # among equals the first
    if names and not counts[best]:
        tried = ", ".join(str(folder) for folder in counts)
        raise DataError(f"{path}: there is no picture {names[0]} in {tried}: put the pictures there")
    return best


def _note_pictures(folder: Path, names: set[str], reading: Reading) -> None:
    """Say which pictures no record is about: they may have been forgotten, and are not used."""
    there = {str(parent) for parent in {Path(name).parent for name in names}}
    alone = [
        path
        for parent in there
        if (folder / parent).is_dir()
        for path in on_disk.files(folder / parent, [".jpg", ".jpeg", ".png"])
        if str(path.relative_to(folder)) not in names
    ]
    if alone:
        reading.notes.append(
            f"{folder}: {len(alone)} pictures have no annotation and are not used, {min(alone).name} for one"
        )
