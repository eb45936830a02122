"""PASCAL VOC's form, and what tools make of it: an XML file per image, in folders of many names.

VOC's boxes are the first and last pixel, counted from 1: left and top lose 1 to be edges in pixels from 0.
Some tools count from 0, edge to edge; a folder in which any left or top is below 1 is taken to be theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import fromstring

from d2lmini.data import files as on_disk
from d2lmini.data.annotated import Entry, Found, LoadOptions, Object
from d2lmini.data.files import IMAGE_SUFFIXES, DataError, inner, read_bytes, skipping
from d2lmini.data.splits import SPLITS, listed, read_list

IMAGE_FOLDERS = {"jpegimages", "images", "image", "imgs", "img", "photos"}
MAX_XML = 8 * 2**20  # bytes: 20,000 objects


class VocFile(NamedTuple):
    """One XML file: boxes and `filename` as written, and how many marked objects are left out."""

    path: Path
    filename: str
    size: tuple[int, int] | None
    objects: tuple[Object, ...]
    left_out: int


class VocFolder(NamedTuple):
    """All that a folder has: XML files by their keys, images by name, and where pixels are counted from."""

    root: Path
    files: Mapping[str, VocFile]
    images: Mapping[str, list[Path]]
    origin: int

    def entries(self, keys: Iterable[str], options: LoadOptions) -> list[Entry]:
        """The entries of the chosen files, without those that could not be read."""
        chosen = [key for key in keys if key in self.files]
        options.note_left_out(sum(self.files[key].left_out for key in chosen), self.root)
        entries = []
        for key in chosen:
            file = self.files[key]
            objects = tuple(
                Object(name, (left - self.origin, top - self.origin, right, bottom))
                for name, (left, top, right, bottom) in file.objects
            )
            with skipping(options.faults):
                image = _image(file, PurePosixPath(key).parent.parts, self.images)
                entries.append(Entry(image, objects, str(file.path), file.size))
        return entries


def xml_folder(root: Path) -> Path | None:
    """Where the XML files are: the folder Annotations and what is below, or the only folder with any."""
    holders = [folder for folder in on_disk.folders(root) if on_disk.files(folder, [".xml"])]
    named: dict[Path, None] = {}
    for folder in holders:
        inside = (path for path in (folder, *folder.parents) if path.is_relative_to(root))
        bases = [path for path in inside if path.name.lower() in ("annotations", "annotation")]
        named |= dict.fromkeys(bases[:1])
    if len(named or holders) > 1:
        there = ", ".join(str(folder.relative_to(root)) for folder in named or holders)
        raise DataError(f"{root} has XML files in {there}: keep one, or open the folder of one set")
    return next(iter(named or holders), None)


def read_voc(root: Path, base: Path, options: LoadOptions) -> Found:
    """A folder in VOC's form, whose XML files are below `base`. Raises DataError naming the file and object.

    All files are read at once: classes, and where counting starts, must not depend on the split.
    """
    found = on_disk.files_below(base, [".xml"])
    paths = {path.relative_to(base).with_suffix("").as_posix(): path for path in found}
    files: dict[str, VocFile] = {}
    for key, path in paths.items():
        with skipping(options.faults):
            files[key] = read_xml(path, options.difficult)
    images: dict[str, list[Path]] = {}
    for path in on_disk.files_below(root, IMAGE_SUFFIXES):
        images.setdefault(path.stem, []).append(path)
    known = {file.path.stem for file in files.values()}
    known |= {PurePosixPath(file.filename.replace("\\", "/")).stem for file in files.values()}
    used = {path.parent for stem in known & images.keys() for path in images[stem]}
    others = [path for stem in images.keys() - known for path in images[stem]]
    options.note_unannotated([path for path in others if path.parent in used], root)
    objects = [one for file in files.values() for one in file.objects]
    from_0 = any(low < 1 for one in objects for low in one.edges[:2])
    voc = VocFolder(root, files, images, 0 if from_0 else 1)
    by_folders = {split: partial(voc.entries, keys) for split, keys in _by_folders(paths).items()}
    parts = _by_lists(voc, base, paths) or by_folders
    return Found(parts | {"all": partial(voc.entries, paths)}, {one.name for one in objects})


def _by_lists(voc: VocFolder, base: Path, known: Iterable[str]) -> dict[str, Callable]:
    """The parts that have lists in ImageSets; trainval.txt is one where train and val have none."""
    places = [top / name for top in (voc.root, base.parent) for name in ("ImageSets", "ImageSets/Main")]
    lists = {path.stem: path for place in places if place.is_dir() for path in on_disk.files(place, [".txt"])}
    lists = {name: lists[name] for name in ("trainval", *SPLITS) if name in lists}

    def read(path: Path, options: LoadOptions) -> list[Entry]:
        named = set().union(*map(listed, lists.values()))
        unlisted = [key for key in known if named.isdisjoint((key, PurePosixPath(key).name))]
        if unlisted:
            unused = f"{len(unlisted)} annotations are in no list and not used, {unlisted[0]} for one"
            options.notes.append(f"{voc.root}: {unused}")
        return voc.entries(read_list(path, known), options)

    parts = {name: partial(read, path) for name, path in lists.items()}
    if parts.keys() & {"train", "val"}:
        parts.pop("trainval", None)
    return parts


def _by_folders(keys: Iterable[str]) -> dict[str, list[str]]:
    """The files by split where all lie in Annotations/train or the like, or nothing."""
    splits = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
    parts: dict[str | None, list[str]] = {}
    for key in keys:
        folder, _, below = key.partition("/")
        parts.setdefault(splits.get(folder.lower()) if below else None, []).append(key)
    return parts if None not in parts and len(parts) > 1 else {}


def _image(file: VocFile, below: Sequence[str], images: Mapping[str, list[Path]]) -> Path:
    """The image of an XML file: of the same name, or else the one it names (files are renamed, it is not).

    Of several the first of `tests` that tells them apart decides; `below` are the XML file's folders.
    """
    where = str(file.path)
    named = inner(file.filename, where).name if file.filename else ""
    tests = (
        lambda path: path.name == named,
        lambda path: path.parent == file.path.parent,
        lambda path: any(part.lower() in IMAGE_FOLDERS for part in path.parts[:-1]),
        lambda path: not below or path.parts[-1 - len(below) : -1] == tuple(below),
    )
    for stem in (file.path.stem, PurePosixPath(named).stem):
        found = images.get(stem, [])
        for test in tests:
            found = [path for path in found if test(path)] or found
        if len(found) == 1:
            return found[0]
        if found:
            there = " and ".join(str(path) for path in found)
            raise DataError(f"{where} may be for {there}: keep one, or give it in <filename>")
    missing = f"there is no image {file.path.stem} or {named or '(no <filename>)'} in the folder"
    raise DataError(f"{where}: {missing}: add the image or remove the annotation")


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
    size = None  # where it is missing, as often, or no number
    with suppress(ValueError, OverflowError):
        stated = [int(float(annotation.findtext(f"size/{s}") or "")) for s in ("width", "height")]
        size = tuple(stated) if min(stated) > 0 else None
    return VocFile(path, filename, size, kept, len(objects) - len(kept))


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
