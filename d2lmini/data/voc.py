"""PASCAL VOC's form, and what tools make of it: an XML file per image, in folders of many names.

VOC's boxes are the first and last pixel, counted from 1: left and top lose 1 to be edges in pixels from 0.
Some tools count from 0, edge to edge; a folder in which any left or top is below 1 is taken to be theirs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import fromstring

from d2lmini.data import files as on_disk
from d2lmini.data.entries import Annotation, Entry, Found, LoadOptions, Object, as_size, enclose, is_marked
from d2lmini.data.files import DataError, decode, read_bytes, skipping
from d2lmini.data.lookup import ImageIndex
from d2lmini.data.splits import SPLITS, group_by_split, read_list, split_of, unlisted

MAX_XML = 64 * 2**20  # bytes: 160,000 objects
ENCODING = re.compile(rb"""^[^>]*<\?xml[^>]*encoding=["']([A-Za-z0-9._-]+)["']""")
ENCODINGS = re.compile("utf|us-ascii|iso|latin|windows|cp|gb|big5|shift|euc|koi")  # not all that Python has


class NotVoc(DataError):
    """An XML file of another kind."""


class VocFolder(NamedTuple):
    """All that a folder has: XML files by their keys, images by name, and where pixels are counted from."""

    root: Path
    files: Mapping[str, Annotation]
    images: ImageIndex

    def entries(self, keys: Iterable[str], options: LoadOptions) -> list[Entry]:
        """The entries of the chosen files, without those that could not be read."""
        return self.images.entries([self.files[key] for key in keys if key in self.files], options)


def xml_files(root: Path) -> tuple[list[Path], list[Path]]:
    """XML files below folders called Annotations, or else all; and those that are not taken."""
    found = on_disk.files_below(root, [".xml"])
    folders = {path: [part.lower() for part in path.relative_to(root).parts[:-1]] for path in found}
    inside = [path for path in found if {"annotations", "annotation"}.intersection(folders[path])]
    return inside or found, sorted({*found} - {*inside}) if inside else []


def read_voc(root: Path, files: Iterable[Path], options: LoadOptions) -> Found:
    """A folder in VOC's form. Raises DataError naming the file and object.

    All files are read at once: classes, and where counting starts, must not depend on the split.
    """
    paths = {path.relative_to(root).with_suffix("").as_posix(): path for path in files}
    read = _read_files(paths, root, options)
    voc = VocFolder(root, from_0(read), ImageIndex(root))
    everything = partial(voc.entries, paths)
    used = {entry.image for entry in everything(options.silent())}
    voc.images.mention(path.stem for path in paths.values())
    options.note_unannotated(voc.images.beside(used), root)
    classes = {one.name for file in read.values() for one in file.objects}
    lists = _lists(voc.root, paths)
    if parts := {name: partial(_by_list, voc, path, lists, paths) for name, path in lists.items()}:
        return Found(parts | ({"all": everything} if unlisted(paths, lists.values()) else {}), classes)
    splits = {key: split_of(*PurePosixPath(key).parts[:-1]) for key in paths}
    groups = group_by_split(splits, root, options)
    return Found({part: partial(voc.entries, keys) for part, keys in groups.items()}, classes)


def _read_files(paths: Mapping[str, Path], root: Path, options: LoadOptions) -> dict[str, Annotation]:
    """The files by their keys; other XML is refused beside annotations, and noted where it is alone."""
    read, others = {}, []
    for key, path in paths.items():
        with skipping(options.faults):
            try:
                read[key] = read_xml(path, options.difficult)
            except NotVoc as error:
                others.append((path, error))
    holders = {file.path.parent for file in read.values()}
    strays = [path.name for path, _ in others if path.parent not in holders]
    for path, error in others:
        with skipping(options.faults):
            if path.parent in holders:
                raise error
    options.note(
        root, "XML files are no annotations and not read", len(strays), strays[0] if strays else None
    )
    return read


def from_0(files: Mapping[str, Annotation]) -> dict[str, Annotation]:
    """Files with their boxes as edges counted from 0: these are, if any left or top edge is below 1."""
    if any(low < 1 for file in files.values() for one in file.objects for low in one.edges[:2]):
        return dict(files)
    shifted = {
        key: [Object(name, (left - 1, top - 1, *ends)) for name, (left, top, *ends) in file.objects]
        for key, file in files.items()
    }
    return {key: file._replace(objects=tuple(shifted[key])) for key, file in files.items()}


def _lists(root: Path, known: Iterable[str]) -> dict[str, Path]:
    """The lists in ImageSets by their parts; trainval.txt is one where train and val have none."""
    sets = [folder for folder in on_disk.folders(root) if folder.name.lower() == "imagesets"]
    homes = {key[: max(key.lower().rfind("annotations/"), 0)] for key in known}
    if sets and len(homes := homes | {str(folder.parent) for folder in sets[1:]}) > 1:
        there = " and ".join(sorted(homes))
        raise DataError(f"{root} has lists and several sets ({there}): open the folder of one set")
    places = [place for top in sets for place in (top, top / "Main") if place.is_dir()]
    found = {path.stem: path for place in places for path in on_disk.files(place, [".txt"])}
    lists = {name: found[name] for name in ("trainval", *SPLITS) if name in found}
    if lists.keys() & {"train", "val"}:
        lists.pop("trainval", None)
    return lists


def _by_list(
    voc: VocFolder, path: Path, lists: Mapping[str, Path], known: Iterable[str], options: LoadOptions
) -> list[Entry]:
    rest = [PurePosixPath(key).name for key in unlisted(known, lists.values())]
    options.note(voc.root, "annotations are in no list and not used", len(rest), *rest[:1])
    return voc.entries(read_list(path, known), options)


def top_tag(path: Path) -> str:
    """What an XML file is called at the top, by its first bytes."""
    start = read_bytes(path, MAX_XML, first=4096)
    text = start.decode("utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1", "replace")
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    found = re.search(r"<([A-Za-z_][\w.-]*:)?([\w.-]+)", text)
    return found[2] if found else ""


def parse_xml(path: Path) -> Element:
    """The top of an XML file, without namespaces, in any encoding that tools have; DataError for none."""
    data = read_bytes(path, MAX_XML)
    said = ENCODING.match(data[:200])
    encoding = said[1].decode().lower() if said else "utf-8-sig"
    try:
        if not ENCODINGS.match(encoding):
            raise LookupError(f"unknown encoding {encoding}")
        text = decode(data, path, encoding)
        top = fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text.lstrip("\ufeff")).lstrip())
    except (ParseError, ValueError, LookupError, RecursionError) as error:  # ValueError: entities
        raise DataError(f"{path} cannot be read as XML ({error}): correct or remove it") from error
    for element in top.iter():
        element.tag = element.tag.rpartition("}")[2]
    return top


def read_xml(path: Path, difficult: bool = False) -> Annotation:
    """One annotation file, boxes as written; DataError names what it lacks. Parts are not objects."""
    annotation = parse_xml(path)
    if annotation.tag != "annotation":
        raise NotVoc(f"{path} is <{annotation.tag}>, not <annotation>: keep other XML files elsewhere")
    kept, left_out, enclosed = [], 0, 0
    for number, element in enumerate(annotation.iter("object"), start=1):
        objects, outlined = _objects(element, f"{path}, object {number}")
        if difficult or not is_marked(element.findtext("difficult")):
            kept += objects
            enclosed += outlined
        else:
            left_out += len(objects)
    names = path.stem, annotation.findtext("filename") or ""
    size = as_size(*(annotation.findtext(f"size/{side}") for side in ("width", "height")))
    found = Annotation(path, str(path), names, tuple(kept), size)
    return found._replace(left_out=left_out, enclosed=enclosed)


def _objects(element: Element, where: str) -> tuple[list[Object], bool]:
    """The boxes of an object, mostly one, and whether it is the box around an outline."""
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where} has no <name>: give its class")
    where = f"{where} ({name})"
    if not (boxes := element.findall("bndbox")):
        for tag, outline in (("robndbox", _rotated), ("polygon", _polygon)):
            if (drawn := element.find(tag)) is not None:
                try:
                    return [Object(name, outline(drawn))], True
                except (TypeError, ValueError) as error:
                    raise DataError(f"{where}: its <{tag}> has no numbers of pixels: correct it") from error
    return [Object(name, _edges(box, where)) for box in boxes or [Element("bndbox")]], False


def _edges(box: Element, where: str) -> tuple[float, float, float, float]:
    edges = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        text = box.findtext(side)
        try:
            edges.append(float(text or ""))
        except ValueError as error:
            raise DataError(f"{where}: <{side}> is {text!r}: give a number of pixels") from error
    return tuple(edges)


def _rotated(box: Element) -> tuple[float, float, float, float]:
    """The box around roLabelImg's, which is turned about its center by an angle in radians."""
    x, y, w, h, angle = (float(box.findtext(key) or "") for key in ("cx", "cy", "w", "h", "angle"))
    across = (w * abs(math.cos(angle)) + h * abs(math.sin(angle))) / 2
    down = (w * abs(math.sin(angle)) + h * abs(math.cos(angle))) / 2
    return x - across, y - down, x + across, y + down


def _polygon(outline: Element) -> tuple[float, float, float, float]:
    """The box around points <pt><x/><y/></pt>, or <x1/><y1/><x2/> …"""
    xs = [float(e.text or "") for e in outline.iter() if re.fullmatch(r"x\d*", e.tag)]
    ys = [float(e.text or "") for e in outline.iter() if re.fullmatch(r"y\d*", e.tag)]
    return enclose(zip(xs, ys, strict=True))
