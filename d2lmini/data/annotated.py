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
    "expected PASCAL VOC (a folder Annotations of XML files, images in JPEGImages or images), "
    "COCO (a JSON file of instances, here or in annotations, and a folder of images) or "
    "YOLO (images, labels and a data.yaml with the names of the classes)"
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


@dataclass(frozen=True)
class LoadOptions:
    """How annotations are read, and what is noted on the way."""

    difficult: bool = False  # whether objects marked as difficult or as crowd are kept
    faults: list[str] | None = None  # gets what had to be skipped; None: it is raised
    notes: list[str] = field(default_factory=list)  # gets what is left out by design

    def note_left_out(self, count: int, root: Path) -> None:
        if count:
            left_out = "objects marked as difficult or crowd are left out (difficult keeps them)"
            self.notes.append(f"{root}: {count} {left_out}")

    def note_unannotated(self, images: Collection[Path], root: Path) -> None:
        if images:
            unused = "images have no annotation and are not used"
            self.notes.append(f"{root}: {len(images)} {unused}, {min(images).name} for one")


class Found(NamedTuple):
    """What a reader found in a folder: its parts, each a function that gives the entries, and all classes.

    Parts are "train", "val" and "test" as the folder is divided, "trainval", which is still to be divided,
    and "all" (the only part of a folder that is not divided; left out if it is the sum of the others).
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
    how it gets into the square: "stretch" scales both sides to `size` and leaves boxes in [0, 1] as they are;
    "letterbox" keeps shapes and leaves bands, so that boxes move (`images.placement`). A box may reach 1
    pixel out of the image and is then clipped to it. `notes` say what the data set leaves out, `skipped` has
    the faults for which `skip_bad` did so, `split_record` how the folder was divided (`folders.open_folder`).

    Raises ValueError for a size out of range, an unknown `resize_mode` and a class twice. Indexing raises
    IndexError, and DataError naming file and object for an unreadable image or one of another size, an
    unknown class, and a box that is no box or outside.
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
        _check_size(entry, image_size)
        edges = [_normalize(entry, i, image_size) for i in range(len(entry.objects))]
        boxes = torch.tensor(edges, dtype=torch.float64)
        place = placement(image_size, size, self.resize_mode)
        boxes = place.into_square(boxes.reshape(-1, 4)).float()  # (G, 4)
        for i in (boxes[:, 2:] <= boxes[:, :2]).any(dim=1).nonzero():  # in float32: it has no logarithm
            raise _box_error(entry, int(i), "is too thin")
        for number, one in enumerate(entry.objects, start=1):
            if one.name not in self.classes:
                there = f"({', '.join(self.classes)}), or give none and they are found"
                unknown = f"{entry.where}, object {number}: unknown class {one.name!r}"
                raise DataError(f"{unknown}: add it to classes {there}")
        labels = [self.classes.index(one.name) for one in entry.objects]
        return Sample(pixels, boxes, torch.tensor(labels, dtype=torch.int64))


def _check_size(entry: Entry, found: tuple[int, int]) -> None:
    if entry.size is None or entry.size == found:
        return
    stated, actual = ("{} × {}".format(*size) for size in (entry.size, found))
    remedy = "use the image that was annotated, or remove the size if the boxes are in this image's pixels"
    if turned := entry.size == found[::-1]:
        remedy = "its boxes were drawn on the image lying down. Save the image upright, without an EXIF "
        remedy += "orientation, and annotate that"
    has = f"{entry.image} {'shown upright ' if turned else ''}has {actual}"
    raise DataError(f"{entry.where} is for {stated} pixels, but {has}: {remedy}")


def _normalize(entry: Entry, number: int, size: tuple[int, int]) -> tuple[float, ...]:
    """Object `number` in [0, 1] of an image of `size` (width, height), clipped to it."""
    left, top, right, bottom = edges = entry.objects[number].edges
    width, height = size
    if entry.fractions:
        left, top, right, bottom = edges = left * width, top * height, right * width, bottom * height
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
    box = "({:g}, {:g}, {:g}, {:g}) ".format(*edges) + fault
    return DataError(f"{entry.where}, object {number + 1} ({name}): the box {box}: correct or remove it")
