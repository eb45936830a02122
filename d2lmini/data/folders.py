"""Folders of annotated photographs, in PASCAL VOC's form (XML), COCO's (JSON) or YOLO's, or D2L's bananas.

`open_folder` finds out which. A folder that is divided already (a list per split in `ImageSets`, a JSON
file per split, or a folder per split) stays divided as it is, unless lists are given; any other is divided
at random, the same way for the same seed. `voc` and `coco` say what the two forms mean by a box.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from d2lmini.data.annotated import EXPECTED, AnnotatedImages, Found, LoadOptions
from d2lmini.data.bananas import find_archive, read_bananas
from d2lmini.data.coco import json_files, read_coco
from d2lmini.data.files import DataError, DataWarning
from d2lmini.data.sources import faults_of
from d2lmini.data.splits import SPLITS, Division
from d2lmini.data.voc import read_voc, xml_folder
from d2lmini.data.yolo import read_yolo, yolo_names

MAX_QUOTED = 10  # faults that a warning quotes


def open_folder(
    path: str | Path,
    split: str = "train",
    *,
    size: int = 256,
    resize_mode: str = "stretch",
    classes: Sequence[str] | None = None,
    seed: int = 0,
    val_fraction: float = 0.2,
    train_list: str | Path | None = None,
    val_list: str | Path | None = None,
    split_record: Mapping[str, Any] | None = None,
    difficult: bool = False,
    skip_bad: bool = False,
) -> AnnotatedImages:
    """The annotated images of one split of a folder, brought to `size` by `size` pixels.

    `split` is train, val, test (if the folder has one) or all. `resize_mode` is "stretch" or "letterbox"
    (see `AnnotatedImages`). `classes` gives the names in the order of their labels (left out: all names,
    sorted). `difficult` keeps the objects marked as difficult (VOC) or as crowd (COCO).

    `train_list` and `val_list` are text files with an image a line; with one of them, the other split is all
    the rest. Without, a folder that has no val keeps `val_fraction` of its images (those for train, if it
    says which these are), drawn at random with `seed`, for val. `split_record` of an earlier result gives
    `seed` and `val_fraction`: if the new result's is equal to it, the division is the same.

    `skip_bad` reads every image once and leaves out those with a fault, whole, because an object without its
    box would be taught as background; of objects of no class among `classes` only these. A DataWarning counts
    them, `skipped` has them. Raises DataError (a ValueError) that names the file and object and the remedy.
    """
    root = Path(path)
    if split_record is not None:
        seed = split_record.get("seed", seed)
        val_fraction = split_record.get("val_fraction", val_fraction)
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split is {split!r}: choose one of {', '.join((*SPLITS, 'all'))}")
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed is {seed!r}: choose a whole number from 0")
    if not isinstance(val_fraction, Real) or not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction!r}: choose a number between 0 and 1")
    options, silent = (LoadOptions(difficult, [] if skip_bad else None) for _ in range(2))
    lists = {name: Path(file) for name, file in (("train", train_list), ("val", val_list)) if file}
    division = Division(lists, seed, val_fraction)
    try:
        if not root.is_dir():
            raise DataError(f"no folder at {root}: check the path")
        found = _read(root, "all" if lists else split, options)
        if classes is None and not found.classes:
            raise DataError(f"{root} has no object in any annotation: there is nothing to learn")
        classes = sorted(found.classes) if classes is None else classes
        entries = division.entries(found, split, root, options)
        record = division.record(found, root, silent)
        data = AnnotatedImages(entries, classes, size, resize_mode, options.notes, record)
    except OSError as error:
        raise DataError(f"{root} cannot be read ({error}): check its permissions") from error
    if options.faults is not None:
        _skip_faults(data, options.faults, f"{root}, {split}")
    return data


def _read(root: Path, split: str, options: LoadOptions) -> Found:
    """What is annotated in `root`, or in its folders for the splits if it has such."""
    if (yolo := yolo_names(root)) is not None and xml_folder(root) is None and not json_files(root):
        return read_yolo(root, *yolo)
    folders: dict[str, Path] = {}
    inside = {folder.name.casefold(): folder for folder in sorted(root.iterdir()) if folder.is_dir()}
    for name, alias in ((name, alias) for name, aliases in SPLITS.items() for alias in aliases):
        folder = inside.get(alias)
        if name not in folders and folder and (xml_folder(folder) or json_files(folder)):
            folders[name] = folder
    if not folders:
        return _read_one(root, options)
    parts, classes = {}, set()
    for name, folder in folders.items():  # all are read, so that a label means the same class in each
        own = options if split in (name, "all") else LoadOptions(options.difficult, options.faults)
        found = _read_one(folder, own)
        entries = found.entries("all", own)
        parts[name] = lambda _, entries=entries: entries
        classes |= found.classes
    return Found(parts, classes)


def _read_one(root: Path, options: LoadOptions) -> Found:
    if (archive := find_archive(root)) is not None:
        return read_bananas(archive)
    if (annotations := xml_folder(root)) is not None:
        return read_voc(root, annotations, options)
    if files := json_files(root):
        return read_coco(root, files, options)
    raise DataError(f"{root} has no annotations: {EXPECTED}")


def _skip_faults(data: AnnotatedImages, faults: list[str], where: str) -> None:
    """Leave out of the data set what cannot be used; warn how much that is and quote the first faults."""
    for entry in data.entries:
        for number, one in enumerate(entry.objects, start=1):
            if one.name not in data.classes:
                faults.append(f"{entry.where}, object {number}: {one.name!r} is not among the classes")
    kept = [tuple(one for one in entry.objects if one.name in data.classes) for entry in data.entries]
    data.entries = tuple(e._replace(objects=objects) for e, objects in zip(data.entries, kept, strict=True))
    found = faults_of(data)
    data.entries = tuple(entry for i, entry in enumerate(data.entries) if i not in found)
    data.skipped = (*dict.fromkeys(faults), *(str(fault) for fault in found.values()))
    if data.skipped:
        count = len(data.skipped)
        more = f" … and {count - MAX_QUOTED} more (`skipped` has all)" if count > MAX_QUOTED else ""
        said = f"{where}: {count} faults were skipped, {len(data)} images are left. "
        warnings.warn(said + " | ".join(data.skipped[:MAX_QUOTED]) + more, DataWarning, stacklevel=3)
    if not data.entries:
        raise DataError(f"{where}: no image is without a fault. The first: {data.skipped[0]}")
