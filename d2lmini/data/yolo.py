"""YOLO's form: a text file beside each image, an object a line, and the names of the classes in a YAML file.

A line is the number of a class, then center, width and height as fractions of the image's sides, or else the
corners of a polygon, of which the box around it is taken. An empty file is an image without objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from d2lmini.data import files as on_disk
from d2lmini.data.entries import Entry, Found, LoadOptions, Object
from d2lmini.data.files import IMAGE_SUFFIXES, DataError, read_text, skipping
from d2lmini.data.lookup import IMAGE_FOLDERS
from d2lmini.data.splits import SPLITS, split_of

MAX_TEXT = 16 * 2**20  # bytes of one file
NAMES = ("classes.txt", "obj.names", "_darknet.labels")  # where Darknet and its tools keep the names


def yolo_names(root: Path) -> tuple[Path, list[str], dict[str, Any]] | None:
    """The folder of the data, class names, and what the YAML file says; None if it is not YOLO's."""
    for path in on_disk.files_below(root, [".yaml", ".yml"]):
        content = _parse_yaml(path, strict=path.parent == root)
        if isinstance(content, dict) and (names := content.get("names")):
            if isinstance(names, dict) and {*names} == {*range(len(names))}:
                names = [names[k] for k in range(len(names))]
            if not isinstance(names, list):
                raise DataError(f"{path}: 'names' must be a list of class names, or number them from 0")
            return path.parent, [str(name).strip() for name in names], content
    for path in on_disk.files_below(root, [".txt", ".names", ".labels"]):
        if path.name in NAMES and (names := [line.strip() for line in _lines(path) if line.strip()]):
            return root, names, {}
    return None


def _parse_yaml(path: Path, strict: bool) -> Any:
    """A YAML file; one that is none is refused if `strict`: others may be for something else."""
    try:
        return yaml.safe_load(read_text(path, MAX_TEXT))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        if not strict:
            return None
        said = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as YAML ({said}): correct it") from error


def _lines(path: Path) -> list[str]:
    return read_text(path, MAX_TEXT).splitlines()


def read_yolo(root: Path, names: Sequence[str], content: dict[str, Any]) -> Found:
    """A folder in YOLO's form: divided as its YAML file or its folders say. Raises DataError."""
    images = on_disk.files_below(root, IMAGE_SUFFIXES)
    parts: dict[str, list[Path]] = {}
    for split, aliases in SPLITS.items():
        asked = [content[key] for key in aliases if content.get(key)][:1]
        wanted = asked[0] if asked and isinstance(asked[0], list) else asked
        wanted = wanted or [f"{name}.txt" for name in aliases if (root / f"{name}.txt").is_file()][:1]
        chosen = [path for one in wanted for path in _images_of(root, str(one), images)]
        if not chosen:
            chosen = [path for path in images if split_of(*path.relative_to(root).parts[:-1]) == split]
        if chosen:
            parts[split] = list(dict.fromkeys(chosen))
    if "val" not in parts and len({*chain(*parts.values())}) < len(images):
        parts["all"] = images
    labels = {path: _label_file(path, root) for chosen in parts.values() for path in chosen}
    if not any(labels.values()):
        raise DataError(f"{root} has no label file for any of its {len(images)} images: add labels/*.txt")
    known = {path: _read_labels(label, names) for path, label in labels.items() if label is not None}
    classes = {one.name for labels in known.values() for one in labels.objects}
    return Found({split: partial(_entries, chosen, known, root) for split, chosen in parts.items()}, classes)


class Labels(NamedTuple):
    """What is in a label file: its objects, in fractions of the image, and what is wrong with others."""

    path: Path
    objects: tuple[Object, ...]
    faults: list[str]
    enclosed: int = 0


def _entries(
    images: Sequence[Path], known: dict[Path, Labels], root: Path, options: LoadOptions
) -> list[Entry]:
    entries = []
    options.note_enclosed(sum(known[image].enclosed for image in images if image in known), root)
    for image in images:
        if image not in known:
            continue
        path, objects, faults, _ = known[image]
        if not faults:
            entries.append(Entry(image, objects, str(path), fractions=True))
        elif options.faults is None:
            raise DataError(faults[0])
        else:
            options.faults.extend(faults)  # whole: what is not read would be taught as background
    options.note_unannotated([image for image in images if image not in known], root)
    used = {labels.path for labels in known.values()}
    holders = {path.parent for path in used if path.parent.name.lower() == "labels"}
    orphans = [path for folder in sorted(holders) for path in on_disk.files(folder, [".txt"])]
    orphans = [path.name for path in orphans if path not in used and path.name not in NAMES]
    options.note(root, "label files have no image and are not used", len(orphans), *orphans[:1])
    return entries


def _read_labels(path: Path, names: Sequence[str]) -> Labels:
    objects, faults, enclosed = [], [], 0
    with skipping(faults):
        for number, words in enumerate(map(str.split, _lines(path)), start=1):
            if words:
                with skipping(faults):
                    objects.append(_object(words, names, f"{path}, line {number}"))
                    enclosed += len(words) > 5
    return Labels(path, tuple(objects), faults, enclosed)


def _object(words: list[str], names: Sequence[str], where: str) -> Object:
    try:
        label, *values = (float(word) for word in words)
    except ValueError as error:
        raise DataError(f"{where}: {' '.join(words):.80} is no row of numbers: correct it") from error
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        need = "a class and four numbers (center, width, height), or a class and a polygon"
        raise DataError(f"{where} has {len(words)} numbers: give {need}")
    if label not in range(len(names)):
        raise DataError(f"{where}: there is no class {words[0]}, only 0 to {len(names) - 1}: correct it")
    if not all(map(math.isfinite, values)):
        raise DataError(f"{where} holds a number that is not finite: correct or remove it")
    if max(values) > 2:
        raise DataError(f"{where}: {max(values):g} is no fraction: divide by the image's width and height")
    if len(values) == 4:
        x, y, width, height = values
        edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    else:
        edges = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    return Object(names[int(label)], edges)


def _label_file(image: Path, root: Path) -> Path | None:
    """The labels of an image: in a folder labels where it is in images, or beside or below it."""
    name = image.with_suffix(".txt")
    places = [name, image.parent / "labels" / name.name]
    parts = image.relative_to(root).parts
    for i in reversed([i for i, part in enumerate(parts[:-1]) if part.casefold() in IMAGE_FOLDERS]):
        places.insert(0, root.joinpath(*parts[:i], "labels", *parts[i + 1 : -1], name.name))
    return next((path for path in places if on_disk.is_file(path)), None)


def _images_of(root: Path, said: str, images: Sequence[Path]) -> list[Path]:
    """The images of a folder, or of a list, that a YAML file names, wherever it thinks that it lies.

    `../train/images` and `/content/set/train/images` are both train/images here: the longest end of the path
    that there is in the folder.
    """
    parts = [part for part in PurePosixPath(said.replace("\\", "/")).parts if part not in ("..", ".", "/")]
    for start in range(len(parts)):
        place = root.joinpath(*parts[start:])
        if place.is_dir():
            return [path for path in images if place in path.parents]
        if on_disk.is_file(place) and place.suffix == ".txt":
            ends = {PurePosixPath(line.strip().replace("\\", "/")).name for line in _lines(place)}
            return [path for path in images if path.name in ends]
    return []
