"""Pictures on disk with boxes in pixels, whatever file said so, as a data set of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import index as as_index
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from d2lmini.data.files import DataError
from d2lmini.data.images import placement, read_square
from d2lmini.data.samples import Sample

SLACK = 1.0  # pixels by which a box may reach out of its picture: tools round, and count from 0 or 1
SIZES = (16, 4096)

Edges = tuple[float, float, float, float]


class Object(NamedTuple):
    """One annotated object: its class, its left, top, right and bottom edges in pixels from 0."""

    name: str
    edges: Edges


class Entry(NamedTuple):
    """One annotated picture: its file, its objects, and who says so.

    `size` is the (width, height) that the annotation gives, if any; `where` names the annotation in
    messages.
    """

    image: Path
    objects: tuple[Object, ...]
    where: str
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Reading:
    """How annotations are read, and what is said about it on the way.

    `difficult`: keep objects marked as difficult or as crowd. `faults`: where to note what had to be
    skipped; None: raise it. `notes`: sentences on what is left out by design.
    """

    difficult: bool = False
    faults: list[str] | None = None
    notes: list[str] = field(default_factory=list)

    def note_left_out(self, count: int, root: Path) -> None:
        """Say how many objects were left out because they are marked."""
        if count:
            self.notes.append(
                f"{root}: {count} objects marked as difficult or crowd are left out (difficult keeps them)"
            )


class Found(NamedTuple):
    """Entries, all class names, and whether the entries are already those of the split."""

    entries: list[Entry]
    classes: set[str]
    divided: bool


class AnnotatedPictures(Dataset[Sample]):
    """Pictures on disk as samples of `size` by `size` pixels.

    A picture is turned upright by its EXIF orientation, which is how its boxes are meant. `fit` says how
    it gets into the square. "stretch" fits both sides to `size`: all pixels are used, boxes in [0, 1]
    stay as they are, but shapes change with the picture's. "letterbox" keeps shapes, shrinks the longer
    side to `size` and leaves bands, so that objects get smaller and boxes move (`images.placement`). A
    box may reach 1 pixel out of the picture and is then cut to it; nothing else is mended. Pictures are
    read when asked for. `notes` are sentences on what the data set leaves out, `skipped` the faults for
    which `skip_bad` left something out (`folders.open_folder`).

    Raises ValueError for a size out of range, an unknown `fit` and a class twice. Indexing raises
    IndexError outside the set, and DataError (a ValueError) for a picture that cannot be read, an object
    of unknown class, a box that is reversed, empty, not finite or outside, and an annotation for a
    picture of another size; it names the file, the annotation and the object.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        classes: Sequence[str],
        size: int = 256,
        fit: str = "stretch",
        notes: Sequence[str] = (),
        skipped: Sequence[str] = (),
    ) -> None:
        if not isinstance(size, int) or not SIZES[0] <= size <= SIZES[1]:
            raise ValueError(f"size is {size!r}: choose a whole number from {SIZES[0]} to {SIZES[1]}")
        placement((1, 1), (1, 1), fit)
        if len(set(classes)) != len(classes):
            raise ValueError(f"classes {list(classes)} name one class twice: leave one out")
        self.entries, self.classes = tuple(entries), tuple(classes)
        self.size, self.fit = size, fit
        self.notes, self.skipped = tuple(notes), tuple(skipped)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        index = as_index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1}")
        entry, size = self.entries[index], (self.size, self.size)
        pixels, picture = read_square(entry.image, size, self.fit)
        check_size(entry, picture)
        boxes = [fit_box(entry, i, picture) for i in range(len(entry.objects))]
        labels = [self._label(entry, i) for i in range(len(entry.objects))]
        place = placement(picture, size, self.fit)
        fitted = place.into_square(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)).float()
        check_solid(entry, fitted)
        return Sample(pixels, fitted, torch.tensor(labels, dtype=torch.int64))

    def _label(self, entry: Entry, number: int) -> int:
        name = entry.objects[number].name
        if name not in self.classes:
            raise DataError(
                f"{entry.where}, object {number + 1}: unknown class {name!r}: add it to classes "
                f"({', '.join(self.classes)}), or give none and they are found"
            )
        return self.classes.index(name)


def check_size(entry: Entry, found: tuple[int, int]) -> None:
    """Raise DataError if the annotation was made for a picture of another (width, height)."""
    if entry.size is None or entry.size == found:
        return
    told, shown = ("{} × {}".format(*size) for size in (entry.size, found))
    if entry.size == found[::-1]:
        raise DataError(
            f"{entry.where} is for {told} pixels, but {entry.image} shown upright has {shown}: its "
            "boxes were drawn on the picture lying down. Save the picture upright, without an EXIF "
            "orientation, and annotate that"
        )
    raise DataError(
        f"{entry.where} is for {told} pixels, but {entry.image} has {shown}: use the picture that "
        "was annotated, or remove the size if the boxes are in this picture's pixels"
    )


def fit_box(entry: Entry, number: int, size: tuple[int, int]) -> Edges:
    """Object `number` in [0, 1] of a picture of `size` (width, height), cut to it.

    Raises DataError if it reaches out by more than `SLACK` pixels or is not a box.
    """
    name, edges = entry.objects[number]
    where = f"{entry.where}, object {number + 1} ({name})"
    shown = "({:g}, {:g}, {:g}, {:g})".format(*edges)
    if not all(math.isfinite(edge) for edge in edges):
        raise DataError(f"{where}: the box {shown} is not finite: correct or remove it")
    left, top, right, bottom = edges
    if right <= left or bottom <= top:
        raise DataError(f"{where}: the box {shown} is reversed or empty: correct or remove it")
    width, height = size
    if min(left, top) < -SLACK or right > width + SLACK or bottom > height + SLACK:
        raise DataError(
            f"{where}: the box {shown} reaches out of the picture of {width} × {height} pixels: "
            "correct or remove it"
        )
    cut = max(left, 0) / width, max(top, 0) / height, min(right / width, 1), min(bottom / height, 1)
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        raise DataError(f"{where}: the box {shown} is outside the picture: correct or remove it")
    return cut


def check_solid(entry: Entry, boxes: Tensor) -> None:
    """Raise DataError if float32 cannot tell a box (G, 4) from a line: it would have no logarithm."""
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1).tolist()
    for number, (name, edges) in enumerate(entry.objects):
        if flat[number]:
            shown = "({:g}, {:g}, {:g}, {:g})".format(*edges)
            where = f"{entry.where}, object {number + 1} ({name})"
            raise DataError(f"{where}: the box {shown} is too thin: correct or remove it")
