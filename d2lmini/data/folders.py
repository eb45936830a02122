"""Folders of annotated photographs, in PASCAL VOC's form (XML) or COCO's (JSON).

`open_folder` finds out which. A folder that is divided already (a list per split in
`ImageSets/Main`, a JSON file per split, or a folder per split) stays divided as it is; any other is
divided by lot, the same way for the same seed.

Boxes become edges in pixels from 0. COCO's are (left, top, width, height) and such edges already.
VOC's are the first and last pixel, counted from 1: left and top lose 1. Some tools write VOC files
that count from 0, edge to edge; a folder in which any left or top is below 1 is taken to be theirs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml.ElementTree import parse

from d2lmini.data.annotated import AnnotatedPictures, DataError, Edges, Entry, Object
from d2lmini.data.bananas import Bananas, find_archive

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
EXPECTED = (
    "expected PASCAL VOC (a folder Annotations of XML files, pictures in JPEGImages or images) or "
    "COCO (a JSON file of instances, here or in annotations, and a folder of pictures)"
)


class Found(NamedTuple):
    """Entries, all class names, and whether the entries are already those of the split."""

    entries: list[Entry]
    classes: set[str]
    divided: bool


def open_folder(
    path: str | Path,
    split: str = "train",
    *,
    size: int = 256,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    val_share: float = 0.2,
    difficult: bool = False,
) -> AnnotatedPictures:
    """The annotated pictures of one split of a folder, resized to `size` by `size` pixels.

    `split` is train, val, test (if the folder has one) or all. `classes` gives the names in the
    order of their labels; left out, they are all that the folder's annotations name, sorted. A
    folder that is not divided keeps `val_share` of its pictures, drawn with `seed`, for val.
    `difficult` keeps the objects marked as difficult (VOC) or as crowd (COCO), which are left out
    otherwise. The banana archive (see `bananas`) is opened too; the options from `classes` on do
    not matter to it.

    Raises DataError (a ValueError) that names the file and object and says what to do.
    """
    root = Path(path)
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split is {split!r}: choose one of {', '.join((*SPLITS, 'all'))}")
    if not 0 < val_share < 1:
        raise ValueError(f"val_share is {val_share}: choose a share between 0 and 1")
    if not root.is_dir():
        raise DataError(f"no folder at {root}: check the path")
    if find_archive(root) is not None:
        return Bananas(root, split, size)
    found = _read(root, split, difficult)
    if classes is None and not found.classes:
        raise DataError(f"{root} has no object in any annotation: there is nothing to learn")
    entries = found.entries
    if not found.divided:
        entries = divide(entries, split, seed, val_share, root)
    return AnnotatedPictures(entries, sorted(found.classes) if classes is None else classes, size)


def _read(root: Path, split: str, difficult: bool) -> Found:
    """The annotations of `root`, or of its folder for the split if it has one."""
    parts = {name: _part(root, name) for name in SPLITS}
    if any(parts.values()):
        wanted = parts if split == "all" else {split: parts[split]}
        if not any(wanted.values()):
            there = ", ".join(folder.name for folder in parts.values() if folder)
            raise DataError(f"{root} has no folder for {split}, but {there}: ask for one of those")
        # Every part is read, so that a label means the same class in each.
        read = {name: _read_one(part, "all", difficult) for name, part in parts.items() if part}
        entries = [entry for name in read if name in wanted for entry in read[name].entries]
        return Found(entries, set().union(*(part.classes for part in read.values())), True)
    return _read_one(root, split, difficult)


def _part(root: Path, split: str) -> Path | None:
    """The folder of a split, if it has annotations of its own."""
    for name in SPLITS[split]:
        folder = root / name
        if folder.is_dir() and (_xml_folder(folder) or _json_files(folder)):
            return folder
    return None


def _read_one(root: Path, split: str, difficult: bool) -> Found:
    annotations = _xml_folder(root)
    if annotations is not None:
        return read_voc(root, annotations, split, difficult)
    files = _json_files(root)
    if files:
        return read_coco(root, files, split, difficult)
    raise DataError(f"{root} has no annotations: {EXPECTED}")


def divide(entries: Sequence[Entry], split: str, seed: int, val_share: float, root: Path) -> list[Entry]:
    """The entries of one split by lot: the same for one seed, whatever the file system's order."""
    if split == "all":
        return list(entries)
    if split == "test":
        raise DataError(f"{root} has no list of test pictures: ask for train, val or all")
    if len(entries) < 2:
        raise DataError(
            f"{root} has {len(entries)} annotated picture(s), too few to divide into train and "
            "val: add pictures, or ask for the split all"
        )
    ordered = sorted(entries, key=lambda entry: entry.image.as_posix())
    count = min(max(round(val_share * len(ordered)), 1), len(ordered) - 1)
    order = np.random.default_rng(seed).permutation(len(ordered))
    chosen = order[:count] if split == "val" else order[count:]
    return [ordered[i] for i in sorted(chosen)]


# ------------------------------------------------------------------------------------------- files


def _content(folder: Path) -> list[Path]:
    """What is in a folder, sorted; not what is hidden, which is some system's own."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error}): check its permissions") from error


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return [path for path in _content(folder) if path.suffix.lower() in suffixes]


def _folders(root: Path) -> list[Path]:
    """The folder itself and those directly in it."""
    return [root, *(path for path in _content(root) if path.is_dir())]


def _inner(name: str, where: str) -> PurePosixPath:
    """A file's name as an annotation gives it; DataError unless it stays in its folder."""
    path = PurePosixPath(name.strip().replace("\\", "/"))
    if not path.name or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise DataError(f"{where}: the file name {name!r} leads out of the folder: give a name below it")
    return path


# --------------------------------------------------------------------------------------- PASCAL VOC


class _Voc(NamedTuple):
    """One XML file: boxes as written, `filename` as written or empty."""

    path: Path
    filename: str
    size: tuple[int, int] | None
    objects: tuple[Object, ...]


def _xml_folder(root: Path) -> Path | None:
    """Where the XML files are: in Annotations, or in the only folder that has any."""
    folders = [folder for folder in _folders(root) if _files(folder, [".xml"])]
    named = [folder for folder in folders if folder.name.lower() == "annotations"]
    if not named and len(folders) > 1:
        there = ", ".join(folder.name for folder in folders)
        raise DataError(f"{root} has XML files in {there}: keep one, or call it Annotations")
    return next(iter(named or folders), None)


def read_voc(root: Path, annotations: Path, split: str, difficult: bool) -> Found:
    """The pictures of a split (or all, where there is no list of it) of a folder in VOC's form.

    All XML files are read, also those of other splits: what the classes are and where counting
    starts must not depend on the split.
    """
    files = {path.stem: read_xml(path, difficult) for path in _files(annotations, [".xml"])}
    classes = {found.name for file in files.values() for found in file.objects}
    lows = [low for file in files.values() for found in file.objects for low in found.edges[:2]]
    origin = 0 if any(low < 1 for low in lows) else 1
    listed = _listed(root, split, files)
    pictures = _pictures_by_stem(root)
    entries = [
        Entry(
            _voc_picture(file, pictures),
            tuple(_count_from_0(found, origin) for found in file.objects),
            str(file.path),
            file.size,
        )
        for file in (files.values() if listed is None else (files[stem] for stem in listed))
    ]
    return Found(entries, classes, listed is not None)


def _count_from_0(found: Object, origin: int) -> Object:
    left, top, right, bottom = found.edges
    return Object(found.name, (left - origin, top - origin, right, bottom))


def read_xml(path: Path, difficult: bool) -> _Voc:
    """One annotation file; DataError names what it lacks. Parts of objects are not objects."""
    try:
        annotation = parse(path).getroot()
    except (ParseError, OSError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as XML ({error}): correct or remove it") from error
    if annotation.tag != "annotation":
        raise DataError(f"{path} is <{annotation.tag}>, not <annotation>: keep other XML files elsewhere")
    objects = []
    for number, element in enumerate(annotation.findall("object"), start=1):
        marked = (element.findtext("difficult") or "0").strip() not in ("", "0")
        found = _voc_object(element, f"{path}, object {number}")
        if difficult or not marked:
            objects.append(found)
    filename = (annotation.findtext("filename") or "").strip()
    return _Voc(path, filename, _voc_size(annotation), tuple(objects))


def _voc_object(element: Element, where: str) -> Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where} has no <name>: give its class")
    edges = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        text = element.findtext(f"bndbox/{side}")
        try:
            edges.append(float(text or ""))
        except ValueError as error:
            raise DataError(f"{where} ({name}): <{side}> is {text!r}: give a number of pixels") from error
    return Object(name, tuple(edges))


def _voc_size(annotation: Element) -> tuple[int, int] | None:
    """The (width, height) of the picture; None where it is missing, as often, or no number."""
    try:
        width, height = (int(float(annotation.findtext(f"size/{s}") or "")) for s in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _pictures_by_stem(root: Path) -> dict[str, list[Path]]:
    """The pictures in the folder and directly below, by their names without ending."""
    pictures: dict[str, list[Path]] = {}
    for folder in _folders(root):
        for path in _files(folder, SUFFIXES):
            pictures.setdefault(path.stem, []).append(path)
    return pictures


def _voc_picture(file: _Voc, pictures: dict[str, list[Path]]) -> Path:
    """The picture of an XML file: the one of the same name, or else the one it names.

    In this order, because files are renamed and <filename> is not; its ending is often wrong too.
    """
    where = str(file.path)
    named = _inner(file.filename, where).name if file.filename else ""
    for stem in (file.path.stem, PurePosixPath(named).stem):
        found = pictures.get(stem, [])
        exact = [path for path in found if path.name == named]
        if len(exact or found) == 1:
            return (exact or found)[0]
        if found:
            there = " and ".join(str(path) for path in found)
            raise DataError(f"{where} may be for {there}: keep one, or give it in <filename>")
    raise DataError(
        f"{where}: there is no picture {file.path.stem} or {named or '(no <filename>)'} beside it: "
        "add the picture or remove the annotation"
    )


def _listed(root: Path, split: str, known: Iterable[str]) -> list[str] | None:
    """The names in the list of a split; None where the folder is not divided by lists."""
    folder = root / "ImageSets" / "Main"
    lists = {path.stem: path for path in _files(folder, [".txt"])} if folder.is_dir() else {}
    if split == "all" or not set(lists) & set(SPLITS):
        return None
    if split not in lists:
        there = ", ".join(sorted(set(lists) & set(SPLITS)))
        raise DataError(f"{folder} has no {split}.txt, but lists for {there}: ask for one of those")
    try:
        lines = lists[split].read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{lists[split]} cannot be read ({error}): write it as UTF-8") from error
    known = set(known)
    numbered = enumerate((line.strip() for line in lines), start=1)
    return [_stem(line, known, f"{lists[split]}, line {i}") for i, line in numbered if line]


def _stem(line: str, known: set[str], where: str) -> str:
    """The annotation that a line names, with or without an ending."""
    name = line if PurePosixPath(line).suffix.lower() not in SUFFIXES else PurePosixPath(line).stem
    if name not in known:
        raise DataError(f"{where}: there is no annotation for {line!r}: add one or remove the line")
    return name


# --------------------------------------------------------------------------------------------- COCO


def _json_files(root: Path) -> list[Path]:
    """JSON files in the folder or its annotations; those of instances only, where names tell."""
    folders = [root, root / "annotations"]
    files = [path for folder in folders if folder.is_dir() for path in _files(folder, [".json"])]
    instances = [path for path in files if path.name.startswith("instances")]
    return instances or files


def _is_for(path: Path, split: str) -> bool:
    """Whether a file's name names a split: train.json, instances_train2017.json."""
    words = "".join(c if c.isalpha() else " " for c in path.stem.lower()).split()
    return any(name in words for name in SPLITS[split])


def read_coco(root: Path, files: list[Path], split: str, difficult: bool) -> Found:
    """The pictures of a split of a folder in COCO's form, or all, where no file is for a split.

    All files are read, also those of other splits: what the classes are must not depend on it.
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
            entries += _coco_entries(content, file, root, difficult)
    return Found(entries, classes, "all" not in divided)


def _coco_entries(content: dict, path: Path, root: Path, difficult: bool) -> list[Entry]:
    """The entries of one file of instances; DataError names the record and what it lacks."""
    classes, images = _categories(content, path), _images(content, path)
    objects: dict[Any, list[Object]] = {key: [] for key in images}
    for record, where in _records(content, "annotations", path):
        found = _coco_object(record, classes, images, where)
        if difficult or not record.get("iscrowd"):
            objects[record["image_id"]].append(found)
    folder = _picture_folder(root, path, [name for name, _ in images.values()])
    return [
        Entry(folder / name, tuple(objects[key]), f"{path}, image {key}", size)
        for key, (name, size) in images.items()
    ]


def _load(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): correct or remove it") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no object at the top: {EXPECTED}")
    return content


def _categories(content: dict, path: Path) -> dict[Any, str]:
    """Class names by their ids, which need not be in a row."""
    records = _records(content, "categories", path)
    return {_get(record, "id", where): _get(record, "name", where) for record, where in records}


def _images(content: dict, path: Path) -> dict[Any, tuple[str, tuple[int, int] | None]]:
    """File names and sizes by image ids."""
    images = {}
    for record, where in _records(content, "images", path):
        key = _get(record, "id", where)
        if key in images:
            raise DataError(f"{where}: the id {key!r} is used twice: ids must differ")
        images[key] = str(_inner(_get(record, "file_name", where), where)), _coco_size(record)
    return images


def _records(content: dict, key: str, path: Path) -> list[tuple[dict, str]]:
    """The records of one list, each with what to call it in a message."""
    records = content.get(key)
    if not isinstance(records, list):
        raise DataError(f"{path} has no list {key!r}: {EXPECTED}")
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{path}, {key}[{i}] is {record!r}: it must be an object")
    return [(record, f"{path}, {key}[{i}]") for i, record in enumerate(records)]


KINDS = {"name": (str,), "file_name": (str,), "bbox": (list,)}


def _get(record: dict, key: str, where: str) -> Any:
    """A field that must be there: a name is text, an id is a number or text."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, KINDS.get(key, (int, str))):
        raise DataError(f"{where}: {key!r} is {value!r}: it is missing or of the wrong kind")
    return value


def _coco_size(record: dict) -> tuple[int, int] | None:
    size = record.get("width"), record.get("height")
    return size if all(isinstance(side, int) and side > 0 for side in size) else None


def _coco_object(record: dict, classes: dict, images: dict, where: str) -> Object:
    for key, known in (("image_id", images), ("category_id", classes)):
        if _get(record, key, where) not in known:
            raise DataError(f"{where}: {key!r} is {record[key]!r}, which is not in the file: add it")
    return Object(classes[record["category_id"]], _coco_edges(_get(record, "bbox", where), where))


def _coco_edges(box: list, where: str) -> Edges:
    try:
        left, top, width, height = (float(number) for number in box)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: 'bbox' is {box}: give left, top, width and height in pixels") from error
    if not all(map(math.isfinite, (left, top, width, height))):
        raise DataError(f"{where}: 'bbox' is {box}: it must be finite; correct or remove it")
    return left, top, left + width, top + height


def _picture_folder(root: Path, path: Path, names: list[str]) -> Path:
    """The folder that a JSON file's names are meant in: the first that has the first of them."""
    stem = path.stem.removeprefix("instances_")  # COCO's own pictures are in train2017
    split = [name for first, *more in SPLITS.values() if _is_for(path, first) for name in (first, *more)]
    below = ["", "images", "JPEGImages", stem, *split, *(f"images/{s}" for s in (stem, *split))]
    folders = [path.parent, *(root / name for name in below if (root / name).is_dir())]
    for folder in folders:
        if not names or (folder / names[0]).is_file():
            return folder
    tried = ", ".join(str(folder) for folder in dict.fromkeys(folders))
    raise DataError(f"{path}: there is no picture {names[0]} in {tried}: put the pictures there")
