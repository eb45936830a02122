"""COCO's form: one JSON file of instances, with all images, classes and boxes of a split.

Boxes are (left, top, width, height) in pixels from 0; ids may be anything that is not used twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from d2lmini.data import files as on_disk
from d2lmini.data.annotated import EXPECTED, Entry, Found, LoadOptions, Object
from d2lmini.data.files import IMAGE_SUFFIXES, DataError, inner, read_bytes, read_text, skipping
from d2lmini.data.splits import SPLITS

MAX_JSON = 2 * 2**30  # bytes; COCO's own are 0.5 GB
MAX_NAMES_TRIED = 200  # names for which a folder of images is chosen
KINDS = {"name": (str,), "file_name": (str,), "bbox": (list,)}


def json_files(root: Path) -> list[Path]:
    """JSON files in the folder or its annotations, or else below; only those of instances where names say."""
    near = [path for path in on_disk.content(root) if path.is_dir() and path.name.lower() == "annotations"]
    files = [path for folder in (root, *near) for path in on_disk.files(folder, [".json"])]
    files = files or on_disk.files_below(root, [".json"])
    files = [path for path in files if path.name not in on_disk.RESULTS]
    return [path for path in files if path.name.startswith("instances")] or files


def _is_for(path: Path, split: str) -> bool:
    """Whether a file's name names a split: train.json, instances_train2017.json."""
    words = "".join(c if c.isalpha() else " " for c in path.stem.lower()).split()
    return any(name in words for name in SPLITS[split])


def read_coco(root: Path, files: list[Path], options: LoadOptions) -> Found:
    """A folder in COCO's form. All files are read: classes must not depend on the split. Raises DataError."""
    splits = {name: [file for file in files if _is_for(file, name)] for name in SPLITS}
    parts, classes = {}, set()
    for name, chosen in splits.items() if any(splits.values()) else [("all", files)]:
        if len(chosen) > 1:
            there = ", ".join(file.name for file in chosen)
            raise DataError(f"{root} has more than one JSON file for {name} ({there}): keep one")
        for file in chosen:
            data = read_bytes(file, MAX_JSON)
            try:
                content = json.loads(data.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file} cannot be read as JSON ({error}): correct or remove it") from error
            if not isinstance(content, dict):
                raise DataError(f"{file} holds no object at the top: {EXPECTED}")
            classes.update(_categories(content, file).values())
            parts[name] = partial(_entries, content, file, root)
    return Found(parts, classes)


def _entries(content: dict, path: Path, root: Path, options: LoadOptions) -> list[Entry]:
    """The entries of one file; an image with a faulty record goes whole, as its objects are not all known."""
    classes, images = _categories(content, path), _images(content, path, options)
    objects: dict[Any, list[Object]] = {key: [] for key in images}
    faulty, left_out = set(), 0
    for record, where in _records(content, "annotations", path):
        with skipping(options.faults):
            found = _object(record, classes, images, where)
            if options.difficult or not record.get("iscrowd"):
                objects[record["image_id"]].append(found)
            else:
                left_out += 1
            continue
        if isinstance(key := record.get("image_id"), (int, str)):
            faulty.add(key)
    options.note_left_out(left_out, root)
    images = {key: image for key, image in images.items() if key not in faulty}
    names = [name for name, _ in images.values()]
    folder = image_folder(root, path, names)
    parents = {parent for name in names if (parent := folder / Path(name).parent).is_dir()}
    beside = {path for parent in parents for path in on_disk.files(parent, IMAGE_SUFFIXES)}
    options.note_unannotated(beside - {folder / name for name in names}, folder)
    return [
        Entry(folder / name, tuple(objects[key]), f"{path}, image {key}", size, key=key)
        for key, (name, size) in images.items()
    ]


def read_categories(root: Path) -> dict[Any, str]:
    """Class names by their ids, of all files of a folder. Raises DataError where these disagree."""
    found: dict[Any, str] = {}
    for file in json_files(root):
        for key, name in _categories(json.loads(read_text(file, MAX_JSON)), file).items():
            if found.setdefault(key, name) != name:
                raise DataError(f"{file}: the category {key!r} is {found[key]!r} in another file: use one id")
    return found


def _categories(content: dict, path: Path) -> dict[Any, str]:
    """Class names by their ids, which need not be in a row."""
    classes: dict[Any, str] = {}
    for record, where in _records(content, "categories", path):
        key, name = get_field(record, "id", where), get_field(record, "name", where).strip()
        if not name:
            raise DataError(f"{where}: 'name' is empty: give the class a name")
        if classes.setdefault(key, name) != name:
            raise DataError(f"{where}: the id {key!r} is used twice: ids must differ")
    return classes


def _images(content: dict, path: Path, options: LoadOptions) -> dict[Any, tuple[str, Any]]:
    """File names and sizes (width, height), or None, by image ids."""
    images, names = {}, set()
    for record, where in _records(content, "images", path):
        with skipping(options.faults):
            key, name = (
                get_field(record, "id", where),
                str(inner(get_field(record, "file_name", where), where)),
            )
            if key in images:
                raise DataError(f"{where}: the id {key!r} is used twice: ids must differ")
            if name in names:  # each record would teach the other's objects as background
                raise DataError(f"{where}: the image {name!r} was named before: give it one record")
            size = record.get("width"), record.get("height")
            images[key] = name, size if all(isinstance(side, int) and side > 0 for side in size) else None
            names.add(name)
    return images


def _records(content: dict, key: str, path: Path) -> list[tuple[dict, str]]:
    """The records of one list, each with what to call it in a message."""
    records = content.get(key)
    if not isinstance(records, list):
        raise DataError(f"{path} has no list {key!r}: {EXPECTED}")
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{path}, {key}[{i}] is {record!r:.80}: it must be an object")
    return [(record, f"{path}, {key}[{i}]") for i, record in enumerate(records)]


def get_field(record: dict, key: str, where: str) -> Any:
    """A field that must be there: a name is text, an id is a number or text."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, KINDS.get(key, (int, str))):
        raise DataError(f"{where}: {key!r} is {value!r:.80}: it is missing or of the wrong kind")
    return value


def _object(record: dict, classes: dict, images: dict, where: str) -> Object:
    for key, known in (("image_id", images), ("category_id", classes)):
        if get_field(record, key, where) not in known:
            raise DataError(f"{where}: {key!r} is {record[key]!r}, which is not in the file: add it")
    said = f"{where}: 'bbox' is {get_field(record, 'bbox', where)!r:.80}"
    try:
        left, top, width, height = map(float, record["bbox"])
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{said}: give left, top, width and height in pixels") from error
    if not all(map(math.isfinite, (left, top, width, height))):
        raise DataError(f"{said}: it must be finite; correct or remove it")
    return Object(classes[record["category_id"]], (left, top, left + width, top + height))


def image_folder(root: Path, path: Path, names: Sequence[str]) -> Path:
    """The folder that a JSON file's names are meant in: the one that has the most of them."""
    stem = path.stem.removeprefix("instances_")  # COCO's own images are in train2017
    own = [alias for split, aliases in SPLITS.items() if _is_for(path, split) for alias in aliases]
    below = ["", "images", "JPEGImages", stem, *own, *(f"images/{s}" for s in (stem, *own))]
    likely = [path.parent, *(root / name for name in below if (root / name).is_dir())]
    others = [split for split in SPLITS if not _is_for(path, split)]
    inside = [folder for folder in on_disk.content(root) if folder.is_dir()]
    likely += [folder for folder in inside if not any(_is_for(folder, split) for split in others)]
    some = names[:: max(1, len(names) // MAX_NAMES_TRIED)]
    counts = {folder: sum(on_disk.is_file(folder / name) for name in some) for folder in likely}
    best = max(counts, key=counts.__getitem__)  # among equals the first
    if names and not counts[best]:
        tried = ", ".join(str(folder) for folder in counts)
        raise DataError(f"{path}: there is no image {names[0]} in {tried}: put the images there")
    return best
