"""PASCAL VOC's form, and what tools make of it: an XML file per image, in folders of many names.

Boxes become edges in pixels from 0. VOC's are the first and last pixel, counted from 1: left and top lose
1. Some tools count from 0, edge to edge; a folder in which any left or top is below 1 is taken to be
theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
            with skipping(options.faults):
                entries.append(self._entry(key))
        return entries

    def _entry(self, key: str) -> Entry:
        file = self.files[key]
        objects = [
            Object(name, (left - self.origin, top - self.origin, right, bottom))
            for name, (left, top, right, bottom) in file.objects
        ]
        image = _image(file, PurePosixPath(key).parent.parts, self.images)
        return Entry(image, tuple(objects), str(file.path), file.size)


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


def read_voc(root: Path, base: Path, options: LoadOptions) -> Found:
    """A folder in VOC's form, whose XML files are below `base`. Raises DataError naming the file and object.

    All XML files are read at once: what the classes are and where counting starts must not depend on the
    split.
    """
    paths = {
        path.relative_to(base).with_suffix("").as_posix(): path
        for path in on_disk.files_below(base, [".xml"])
    }
    files: dict[str, VocFile] = {}
    for key, path in paths.items():
        with skipping(options.faults):
            files[key] = read_xml(path, options.difficult)
    images: dict[str, list[Path]] = {}
    for path in on_disk.files_below(root, IMAGE_SUFFIXES):
        images.setdefault(path.stem, []).append(path)
    _note_images(root, images, files, options)
    objects = [found for file in files.values() for found in file.objects]
    from_0 = any(low < 1 for found in objects for low in found.edges[:2])
    voc = VocFolder(root, files, images, 0 if from_0 else 1)
    parts = _by_lists(voc, base, paths) or {
        split: partial(voc.entries, keys) for split, keys in _by_folders(paths).items()
    }
    return Found(parts | {"all": partial(voc.entries, paths)}, {found.name for found in objects})


def _by_lists(
    voc: VocFolder, base: Path, known: Iterable[str]
) -> dict[str, Callable[[LoadOptions], list[Entry]]]:
    """The parts that have lists in ImageSets; trainval.txt is one where train and val have none."""
    places = [top / name for top in (voc.root, base.parent) for name in ("ImageSets", "ImageSets/Main")]
    lists = {path.stem: path for place in places if place.is_dir() for path in on_disk.files(place, [".txt"])}
    lists = {name: lists[name] for name in ("trainval", *SPLITS) if name in lists}

    def read(path: Path, options: LoadOptions) -> list[Entry]:
        named = set().union(*map(listed, lists.values()))
        unlisted = [key for key in known if named.isdisjoint((key, PurePosixPath(key).name))]
        if unlisted:
            options.notes.append(
                f"{voc.root}: {len(unlisted)} annotations are in no list and not used, {unlisted[0]} for one"
            )
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


def _note_images(
    root: Path, images: Mapping[str, list[Path]], files: Mapping[str, VocFile], options: LoadOptions
) -> None:
    """Note the images that no file is for, in folders that have images of others."""
    known = {file.path.stem for file in files.values()}
    known |= {PurePosixPath(file.filename.replace("\\", "/")).stem for file in files.values()}
    folders = {path.parent for stem in known & images.keys() for path in images[stem]}
    alone = [path for stem in images.keys() - known for path in images[stem] if path.parent in folders]
    options.note_unannotated(alone, root)


def _image(file: VocFile, below: Sequence[str], images: Mapping[str, list[Path]]) -> Path:
    """The image of an XML file: the one of the same name, or else the one it names.

    In this order, because files are renamed and <filename> is not; its ending is often wrong too. Of
    several (masks have their image's name), the one with the ending named, in a folder for images, in
    the same folder below (`below`), in this order.
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
    raise DataError(
        f"{where}: there is no image {file.path.stem} or {named or '(no <filename>)'} in the folder: "
        "add the image or remove the annotation"
    )


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
    """The (width, height) of the image; None where it is missing, as often, or no number."""
    try:
        width, height = (int(float(annotation.findtext(f"size/{s}") or "")) for s in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None
