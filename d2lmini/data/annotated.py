"""Annotated images on disk: what every reader of a format returns, and a data set of samples made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from operator import index as as_index
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from d2lmini.data.files import DataError
from d2lmini.data.images import placement, read_square
from d2lmini.data.samples import Sample

MAX_OUTSIDE = 1.0  # pixels by which a box may reach out of its image: tools round, and count from 0 or 1
SIZES = (16, 4096)
EXPECTED = (
    "expected PASCAL VOC (a folder Annotations of XML files, images in JPEGImages or images) or "
    "COCO (a JSON file of instances, here or in annotations, and a folder of images)"
)

Edges = tuple[float, float, float, float]


class Object(NamedTuple):
    """One annotated object: its class, and its left, top, right and bottom edges in pixels from 0."""

    name: str
    edges: Edges


class Entry(NamedTuple):
    """One annotated image: its file and its objects.

    `where` names the annotation in messages; `size` is the (width, height) that it gives, if any.
    """

    image: Path
    objects: tuple[Object, ...]
    where: str
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class LoadOptions:
    """How annotations are read, and what is noted on the way.

    `difficult`: keep objects marked as difficult or as crowd. `faults`: where to note what had to be
    skipped; None: raise it. `notes`: sentences on what is left out by design.
    """

    difficult: bool = False
    faults: list[str] | None = None
    notes: list[str] = field(default_factory=list)

    def silent(self) -> LoadOptions:
        """The same options with faults and notes of their own, which nobody is shown."""
        return LoadOptions(self.difficult, None if self.faults is None else [])

    def note_left_out(self, count: int, root: Path) -> None:
        """Note how many objects are left out because they are marked."""
        if count:
            self.notes.append(
                f"{root}: {count} objects marked as difficult or crowd are left out (difficult keeps them)"
            )

    def note_unannotated(self, images: Collection[Path], root: Path) -> None:
        """Note images without annotation: they are not used, and may have been forgotten."""
        if images:
            count, one = len(images), min(images).name
            self.notes.append(f"{root}: {count} images have no annotation and are not used, {one} for one")


class Found(NamedTuple):
    """What a reader found in a folder: the parts that it is divided into, and the names of all classes.

    `parts` has a function for every split that the folder itself knows, "train", "val" or "test", and for
    "trainval", which is still to be divided. It gives the entries, or raises DataError where one has a fault.
    A folder that is not divided has only "all". In any other, "all" may be left out if it is the sum of the
    parts.
    """

    parts: dict[str, Callable[[LoadOptions], list[Entry]]]
    classes: set[str]

    def entries(self, part: str, options: LoadOptions) -> list[Entry]:
        """The entries of a part, or "all"; KeyError for a part that is not there."""
        if part == "all" and part not in self.parts:
            return [entry for read in self.parts.values() for entry in read(options)]
        return self.parts[part](options)


class AnnotatedImages(Dataset[Sample]):
    """Images on disk as samples of `size` by `size` pixels.

    An image is turned upright by its EXIF orientation, which is how its boxes are meant. `resize_mode` says
    how it gets into the square. "stretch" scales both sides to `size`: all pixels are used, boxes in [0, 1]
    stay as they are, but shapes change with the image's. "letterbox" keeps shapes, scales the longer
    side to `size` and leaves bands, so that objects get smaller and boxes move (`images.placement`). A
    box may reach 1 pixel out of the image and is then clipped to it; nothing else is mended. Images are
    read when asked for. `notes` are sentences on what the data set leaves out, `skipped` the faults for
    which `skip_bad` left something out, `split_record` says how the folder was divided
    (`folders.open_folder`).

    Raises ValueError for a size out of range, an unknown `resize_mode` and a class twice. Indexing raises
    IndexError outside the set, and DataError (a ValueError) for an image that cannot be read, an object
    of unknown class, a box that is reversed, empty, not finite or outside, and an annotation for an
    image of another size; it names the file, the annotation and the object.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        classes: Sequence[str],
        size: int = 256,
        resize_mode: str = "stretch",
        notes: Sequence[str] = (),
        split_record: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(size, int) or not SIZES[0] <= size <= SIZES[1]:
            raise ValueError(f"size is {size!r}: choose a whole number from {SIZES[0]} to {SIZES[1]}")
        placement((1, 1), (1, 1), resize_mode)
        if len(set(classes)) != len(classes):
            raise ValueError(f"classes {list(classes)} name one class twice: leave one out")
        self.entries, self.classes = tuple(entries), tuple(classes)
        self.size, self.resize_mode = size, resize_mode
        self.notes, self.split_record = tuple(notes), split_record
        self.skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        index = as_index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1}")
        entry, size = self.entries[index], (self.size, self.size)
        pixels, image_size = read_square(entry.image, size, self.resize_mode)
        check_size(entry, image_size)
        numbers = range(len(entry.objects))
        boxes = torch.tensor([_normalize(entry, i, image_size) for i in numbers], dtype=torch.float64)
        place = placement(image_size, size, self.resize_mode)
        boxes = place.into_square(boxes.reshape(-1, 4)).float()  # (G, 4)
        for i in (boxes[:, 2:] <= boxes[:, :2]).any(dim=1).nonzero():  # in float32: it has no logarithm
            raise _box_error(entry, int(i), "is too thin")
        return Sample(
            pixels, boxes, torch.tensor([self._label(entry, i) for i in numbers], dtype=torch.int64)
        )

    def _label(self, entry: Entry, number: int) -> int:
        name = entry.objects[number].name
        if name not in self.classes:
            raise DataError(
                f"{entry.where}, object {number + 1}: unknown class {name!r}: add it to classes "
                f"({', '.join(self.classes)}), or give none and they are found"
            )
        return self.classes.index(name)


def check_size(entry: Entry, found: tuple[int, int]) -> None:
    """Raise DataError if the annotation was made for an image of another (width, height)."""
    if entry.size is None or entry.size == found:
        return
    stated, actual = ("{} × {}".format(*size) for size in (entry.size, found))
    if entry.size == found[::-1]:
        raise DataError(
            f"{entry.where} is for {stated} pixels, but {entry.image} shown upright has {actual}: its "
            "boxes were drawn on the image lying down. Save the image upright, without an EXIF "
            "orientation, and annotate that"
        )
    raise DataError(
        f"{entry.where} is for {stated} pixels, but {entry.image} has {actual}: use the image that "
        "was annotated, or remove the size if the boxes are in this image's pixels"
    )


def _normalize(entry: Entry, number: int, size: tuple[int, int]) -> Edges:
    """Object `number` in [0, 1] of an image of `size` (width, height), clipped to it.

    Raises DataError if it reaches out by more than `MAX_OUTSIDE` pixels or is not a box.
    """
    left, top, right, bottom = edges = entry.objects[number].edges
    width, height = size
    if not all(map(math.isfinite, edges)):
        raise _box_error(entry, number, "is not finite")
    if right <= left or bottom <= top:
        raise _box_error(entry, number, "is reversed or empty")
    if min(left, top) < -MAX_OUTSIDE or right > width + MAX_OUTSIDE or bottom > height + MAX_OUTSIDE:
        raise _box_error(entry, number, f"reaches out of the image of {width} × {height} pixels")
    clipped = max(left, 0) / width, max(top, 0) / height, min(right / width, 1), min(bottom / height, 1)
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise _box_error(entry, number, "is outside the image")
    return clipped


def _box_error(entry: Entry, number: int, fault: str) -> DataError:
    name, edges = entry.objects[number]
    box = "({:g}, {:g}, {:g}, {:g})".format(*edges)
    return DataError(
        f"{entry.where}, object {number + 1} ({name}): the box {box} {fault}: correct or remove it"
    )
