"""PASCAL VOC's form, and what tools make of it: an XML file per picture, in folders of many names.

Boxes become edges in pixels from 0. VOC's are the first and last pixel, counted from 1: left and top lose
1. Some tools count from 0, edge to edge; a folder in which any left or top is below 1 is taken to be
theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import fromstring

from d2lmini.data import files as on_disk
from d2lmini.data.annotated import Entry, Found, Object, Reading
from d2lmini.data.files import DataError, inner, read_bytes, skipping

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
PICTURE_FOLDERS = {"jpegimages", "images", "image", "imgs", "img", "photos", "pictures"}
MAX_XML = 8 * 2**20  # bytes: 20,000 objects
MAX_LIST = 256 * 2**20


class VocFile(NamedTuple):
    """One XML file: boxes and `filename` as written, and how many marked objects are left out."""

    path: Path
    filename: str
    size: tuple[int, int] | None
    objects: tuple[Object, ...]
    left_out: int


# -------------------------------------------------------------------------------------- where things are


def xml_folder(root: Path) -> Path | None:
    """Where the XML files are: the folder Annotations and what is below, or the only folder with any."""
    holders = [folder for folder in on_disk.folders(root) if on_disk.files(folder, [".xml"])]
    named = dict.fromkeys(base for folder in holders if (base := _annotations(folder, root)))
    if len(named or holders) > 1:
        there = ", ".join(str(folder.relative_to(root)) for folder in named or holders)
        raise DataError(f"{root} has XML files in {there}: keep one, or open the folder of one set")
    return next(iter(named or holders), None)


def _annotations(folder: Path, root: Path) -> Path | None:
    """The folder itself or the one above it, up to `root`, that is called Annotations."""
    for path in (folder, *folder.parents):
        if path.name.lower() in ("annotations", "annotation"):
            return path
        if path == root:
            return None
    return None


def read_voc(root: Path, base: Path, split: str, reading: Reading) -> Found:
    """The pictures of a split (or all, where there is no list of it) of a folder in VOC's form.

    All XML files below `base` are read, also those of other splits: what the classes are and where
    counting starts must not depend on the split. Raises DataError naming the file and object.
    """
    paths = _paths(base)
    chosen, divided = _listed(root, base, split, paths, reading) or _in_folder_of(split, paths)
    files: dict[str, VocFile] = {}
    for key, path in paths.items():
        with skipping(reading.faults):
            files[key] = read_xml(path, reading.difficult)
    pictures = _pictures(root)
    _note_pictures(root, pictures, files, reading)
    reading.note_left_out(sum(files[key].left_out for key in chosen if key in files), root)
    classes = {found.name for file in files.values() for found in file.objects}
    lows = [low for file in files.values() for found in file.objects for low in found.edges[:2]]
    origin = 0 if any(low < 1 for low in lows) else 1
    entries = []
    for key in (key for key in chosen if key in files):
        with skipping(reading.faults):
            entries.append(_entry(files[key], PurePosixPath(key), pictures, origin))
    return Found(entries, classes, divided)


def _paths(base: Path) -> dict[str, Path]:
    """The XML files by their path below `base`, without ending."""
    paths = (path for folder in on_disk.folders(base) for path in on_disk.files(folder, [".xml"]))
    return {path.relative_to(base).with_suffix("").as_posix(): path for path in paths}


def _in_folder_of(split: str, files: Iterable[str]) -> tuple[list[str], bool]:
    """The files in Annotations/train or the like, and whether all lie in such folders."""
    kinds = {alias: name for name, aliases in SPLITS.items() for alias in aliases}
    files = list(files)
    of = {key: kinds.get(PurePosixPath(key).parts[0].lower()) for key in files if "/" in key}
    if split == "all" or len(of) < len(files) or None in of.values() or len(set(of.values())) < 2:
        return files, False
    chosen = [key for key, name in of.items() if name == split]
    if not chosen:
        there = ", ".join(sorted({str(name) for name in of.values()}))
        raise DataError(f"there are no annotations for {split}, but for {there}: ask for one of those")
    return chosen, True


def _pictures(root: Path) -> dict[str, list[Path]]:
    """All pictures in the folder and below, by their names without ending."""
    pictures: dict[str, list[Path]] = {}
    for folder in on_disk.folders(root):
        for path in on_disk.files(folder, SUFFIXES):
            pictures.setdefault(path.stem, []).append(path)
    return pictures


def _note_pictures(
    root: Path, pictures: Mapping[str, list[Path]], files: Mapping[str, VocFile], reading: Reading
) -> None:
    """Say which pictures have no annotation: they may have been forgotten, and are not used."""
    known = {file.path.stem for file in files.values()}
    known |= {PurePosixPath(file.filename.replace("\\", "/")).stem for file in files.values()}
    folders = {path.parent for stem in known & pictures.keys() for path in pictures[stem]}
    alone = [path for stem in pictures.keys() - known for path in pictures[stem] if path.parent in folders]
    if alone:
        reading.notes.append(
            f"{root}: {len(alone)} pictures have no annotation and are not used, {min(alone).name} for one"
        )


def _entry(file: VocFile, key: PurePosixPath, pictures: Mapping[str, list[Path]], origin: int) -> Entry:
    objects = tuple(_count_from_0(found, origin) for found in file.objects)
    return Entry(_picture(file, key.parent.parts, pictures), objects, str(file.path), file.size)


def _count_from_0(found: Object, origin: int) -> Object:
    left, top, right, bottom = found.edges
    return Object(found.name, (left - origin, top - origin, right, bottom))


def _picture(file: VocFile, below: Sequence[str], pictures: Mapping[str, list[Path]]) -> Path:
    """The picture of an XML file: the one of the same name, or else the one it names.

    In this order, because files are renamed and <filename> is not; its ending is often wrong too. Of
    several (masks have their picture's name), the one with the ending named, in a folder for pictures, in
    the same folder below (`below`), in this order.
    """
    where = str(file.path)
    named = inner(file.filename, where).name if file.filename else ""
    tests = (
        lambda path: path.name == named,
        lambda path: path.parent == file.path.parent,
        lambda path: any(part.lower() in PICTURE_FOLDERS for part in path.parts[:-1]),
        lambda path: not below or path.parts[-1 - len(below) : -1] == tuple(below),
    )
    for stem in (file.path.stem, PurePosixPath(named).stem):
        found = pictures.get(stem, [])
        for test in tests:
            found = [path for path in found if test(path)] or found
        if len(found) == 1:
            return found[0]
        if found:
            there = " and ".join(str(path) for path in found)
            raise DataError(f"{where} may be for {there}: keep one, or give it in <filename>")
    raise DataError(
        f"{where}: there is no picture {file.path.stem} or {named or '(no <filename>)'} in the folder: "
        "add the picture or remove the annotation"
    )


# ------------------------------------------------------------------------------------------------- lists


def _listed(
    root: Path, base: Path, split: str, known: Iterable[str], reading: Reading
) -> tuple[list[str], bool] | None:
    """What the list of a split names, and that this is the split; None without such lists.

    Where there is only trainval.txt for train and val, it is that list, still to be divided.
    """
    places = [top / name for top in (base.parent, root) for name in ("ImageSets/Main", "ImageSets")]
    paths = {path.stem: path for place in places[::-1] if place.is_dir() for path in _lists(place)}
    paths = {name: path for name, path in paths.items() if name in (*SPLITS, "trainval")}
    if split == "all" or not paths:
        return None
    whole = split == "test" or "trainval" not in paths or not {"train", "val"}.isdisjoint(paths)
    name = split if whole else "trainval"
    if name not in paths:
        there = ", ".join(sorted(paths))
        where = next(iter(paths.values())).parent
        raise DataError(f"{where} has no {split}.txt, but lists for {there}: ask for one of those")
    named = {_short(line) for path in paths.values() for _, line in _lines(path)}
    others = [key for key in known if named.isdisjoint((key, PurePosixPath(key).name))]
    if others:
        reading.notes.append(
            f"{root}: {len(others)} annotations are in no list and not used, {others[0]} for one"
        )
    return read_list(paths[name], known), whole


def _lists(folder: Path) -> list[Path]:
    return on_disk.files(folder, [".txt"])


def read_list(path: Path, known: Iterable[str]) -> list[str]:
    """The names (paths below some folder, without ending) that the lines of a list mean.

    A line is such a path or its last part, with or without an ending. Raises DataError for a name that is
    not known, or stands for several, or comes twice.
    """
    by_stem: dict[str, list[str]] = {}
    for name in known:
        for key in {name, PurePosixPath(name).name}:
            by_stem.setdefault(key, []).append(name)
    found: dict[str, str] = {}
    for number, line in _lines(path):
        name = _meant(line, by_stem, f"{path}, line {number}")
        if name in found:
            raise DataError(f"{path}, line {number}: {line!r} was named before: keep one line")
        found[name] = line
    return list(found)


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list that are not empty, each with its number."""
    try:
        lines = read_bytes(path, MAX_LIST).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read ({error}): write it as UTF-8") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _short(line: str) -> str:
    """A line without the ending of a picture."""
    path = PurePosixPath(line.replace("\\", "/"))
    return (path.with_suffix("") if path.suffix.lower() in SUFFIXES else path).as_posix()


def _meant(line: str, by_stem: Mapping[str, list[str]], where: str) -> str:
    """The one name that a line means."""
    for key in (line, _short(line), PurePosixPath(_short(line)).name):
        if len(names := by_stem.get(key, [])) == 1:
            return names[0]
        if names:
            raise DataError(f"{where}: {line!r} may be {' or '.join(names)}: name it with its folder")
    raise DataError(f"{where}: there is no annotation for {line!r}: add one or remove the line")


# --------------------------------------------------------------------------------------------- XML files


def read_xml(path: Path, difficult: bool = False) -> VocFile:
    """One annotation file; DataError names what it lacks. Parts of objects are not objects."""
    data = read_bytes(path, MAX_XML)
    try:
        annotation = fromstring(data)
    except (ParseError, ValueError, LookupError, RecursionError) as error:  # ValueError: entities
        raise DataError(f"{path} cannot be read as XML ({error}): correct or remove it") from error
    if annotation.tag != "annotation":
        raise DataError(f"{path} is <{annotation.tag}>, not <annotation>: keep other XML files elsewhere")
    elements = annotation.findall("object")
    marked = [(e.findtext("difficult") or "0").strip() not in ("", "0") for e in elements]
    objects = [_object(e, f"{path}, object {number}") for number, e in enumerate(elements, start=1)]
    kept = tuple(o for o, mark in zip(objects, marked, strict=True) if difficult or not mark)
    filename = (annotation.findtext("filename") or "").strip()
    return VocFile(path, filename, _size(annotation), kept, len(objects) - len(kept))


def _object(element: Element, where: str) -> Object:
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


def _size(annotation: Element) -> tuple[int, int] | None:
    """The (width, height) of the picture; None where it is missing, as often, or no number."""
    try:
        width, height = (int(float(annotation.findtext(f"size/{s}") or "")) for s in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None
