"""What every reader of a format returns: annotated images, in parts, and what is noted on the way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from d2lmini.data.files import DataError, skipping

EXPECTED = (
    "expected PASCAL VOC (XML files, images in JPEGImages, images or beside them), COCO (a JSON file of "
    "instances, and a folder of images), YOLO (images, labels and a data.yaml with the names of the "
    "classes), LabelMe (a JSON file beside each image), CVAT's XML or a CSV table of filename, class, xmin, "
    "ymin, xmax, ymax"
)


class Object(NamedTuple):
    """One annotated object: its class, and its left, top, right and bottom edges in pixels from 0."""

    name: str
    edges: tuple[float, float, float, float]


class Entry(NamedTuple):
    """One annotated image; `where` names the annotation in messages, `size` is (width, height) if given.

    The edges of its objects are in pixels, or in `fractions` of the image's sides. `key` is COCO's id of it.
    """

    image: Path
    objects: tuple[Object, ...]
    where: str
    size: tuple[int, int] | None = None
    fractions: bool = False
    key: int | str | None = None


class Annotation(NamedTuple):
    """One annotated image as a file has it: `names` it may have, the best first, and what is left to say.

    `left_out` counts objects marked as difficult or crowd, `enclosed` boxes around an outline, `flat` points
    and lines, which have no box.
    """

    path: Path
    where: str
    names: tuple[str, ...]
    objects: tuple[Object, ...]
    size: tuple[int, int] | None = None
    split: str | None = None
    left_out: int = 0
    enclosed: int = 0
    flat: int = 0
    key: int | str | None = None


@dataclass(frozen=True)
class LoadOptions:
    """How annotations are read, and what is noted on the way."""

    difficult: bool = False  # whether objects marked as difficult or as crowd are kept
    faults: list[str] | None = None  # gets what had to be skipped; None: it is raised
    notes: list[str] = field(default_factory=list)  # gets what is left out by design

    def silent(self) -> LoadOptions:
        """The same for what is only compared: faults and notes are not kept."""
        return LoadOptions(self.difficult, [])

    def note(self, root: Path, what: str, count: int, example: object = None) -> None:
        """Note how many of something there are, if there are any, and one for an example."""
        if count:
            self.notes.append(f"{root}: {count} {what}" + (f", {example} for one" if example else ""))

    def note_enclosed(self, count: int, root: Path) -> None:
        self.note(root, "objects are given by an outline alone: the box around it is taken", count)

    def note_unannotated(self, images: Collection[Path], root: Path) -> None:
        first = min(images).name if images else None
        self.note(root, "images have no annotation and are not used", len(images), first)


class Found(NamedTuple):
    """What a reader found in a folder: its parts, each a function that gives the entries, and all classes.

    Parts are "train", "val" and "test" as the folder is divided, "trainval", which is still to be divided,
    and "all" (the only part of a folder that is not divided; left out if it is the sum of the others).
    """

    parts: dict[str, Callable[[LoadOptions], list[Entry]]]
    classes: set[str]

    def entries(self, part: str, options: LoadOptions) -> list[Entry]:
        """The entries of a part, or "all", one for each image; KeyError for a part that is not there."""
        if part == "all" and part not in self.parts:
            entries = [entry for read in self.parts.values() for entry in read(options)]
        else:
            entries = self.parts[part](options)
        return one_for_each_image(unswap_sizes(entries, options), options)


def one_for_each_image(entries: Sequence[Entry], options: LoadOptions) -> list[Entry]:
    """The entries without second annotations of an image that say the same, or have another name than it.

    Raises DataError where two say something else: each would teach the other's objects as background.
    """
    by_image: dict[Path, list[Entry]] = {}
    for entry in entries:
        by_image.setdefault(entry.image, []).append(entry)
    doubled = [image for image, found in by_image.items() if len(found) > 1]
    for image in doubled:
        found = by_image.pop(image)
        own = [entry for entry in found if Path(entry.where).stem == image.stem]
        if all(entry.objects == found[0].objects for entry in found):
            own = found[:1]
        with skipping(options.faults):
            if len(own) != 1:
                both = " and ".join(entry.where for entry in found[:2])
                raise DataError(f"{both} are both for {image}: keep one")
            by_image[image] = own
    if settled := [image for image in doubled if image in by_image]:
        more = "images have more than one annotation; that of the image's own name is used"
        options.note(settled[0].parent, more, len(settled), settled[0].name)
    order = {id(entry): i for i, entry in enumerate(entries)}
    return sorted((found[0] for found in by_image.values()), key=lambda entry: order[id(entry)])


def unswap_sizes(entries: Sequence[Entry], options: LoadOptions) -> list[Entry]:
    """The entries with width and height of their sizes exchanged, where boxes say that a tool did so.

    Boxes of some must reach out of the size as given but not of the other, and of none the other way round.
    """

    def fits(entry: Entry, width: int, height: int) -> bool:
        return all(one.edges[2] <= width + 1 and one.edges[3] <= height + 1 for one in entry.objects)

    sized = [e for e in entries if e.size and not e.fractions]
    as_given, exchanged = ([fits(e, *e.size[::step]) for e in sized] for step in (1, -1))  # type: ignore[index]
    if all(as_given) or not all(exchanged):
        return list(entries)
    swapped = [e.where for e in sized if e.size and e.size[0] != e.size[1]]
    first = sized[as_given.index(False)].where
    options.notes.append(f"{first}: boxes fit only if width and height of {len(swapped)} sizes are exchanged")
    return [e._replace(size=e.size[::-1] if e.size else None) for e in entries]


def choose_classes(
    entries: Iterable[Entry], classes: Sequence[str], root: Path, options: LoadOptions
) -> list[Entry]:
    """The entries with objects of these classes alone; one note says what was left out."""
    counts: dict[str, int] = {}
    kept = []
    for entry in entries:
        for one in entry.objects:
            counts[one.name] = counts.get(one.name, 0) + (one.name not in classes)
        kept.append(entry._replace(objects=tuple(one for one in entry.objects if one.name in classes)))
    left_out = ", ".join(f"{name} {n}" for name, n in sorted(counts.items()) if n)
    options.note(root, f"objects of other classes are left out: {left_out}", sum(counts.values()))
    return kept


def as_size(*sides: Any) -> tuple[int, int] | None:
    """Width and height as they are written; None where they are missing, as often, or no numbers."""
    with suppress(TypeError, ValueError, OverflowError):
        width, height = (int(float(side)) for side in sides)
        return (width, height) if min(width, height) > 0 else None
    return None


def is_marked(value: Any) -> bool:
    """Whether a mark such as `difficult` or `iscrowd` is set, however it is written.

    >>> [is_marked(value) for value in ("1", True, "yes", "Unspecified", "0.0")]
    [True, True, True, False, False]
    """
    text = str(value).strip().lower()
    try:
        return float(text) not in (0, float("inf")) and float(text) == float(text)
    except ValueError:
        return text in ("true", "yes", "y", "t")


def enclose(points: Iterable[Sequence[float]]) -> tuple[float, float, float, float]:
    """The edges of the box around points (x, y); ValueError for none."""
    xs, ys = zip(*points, strict=True)
    return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))
